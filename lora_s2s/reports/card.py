"""README.md of an adapter: a model card for people and hubs, made from its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_s2s.files import read_json, write_text
from lora_s2s.hub import ADAPTER_CONFIG, DEMO_NAME, card_head
from lora_s2s.records import manifest_content
from lora_s2s.reports.peft_versions import WITH_NEW_TRANSFORMERS, peft_that_reads
from lora_s2s.reports.render import render, verbatim
from lora_s2s.reports.samples import sample_rows
from lora_s2s.reports.summary import base_name, facts, score_lines, shown, signatures

CARD = "README.md"
_EXAMPLES = 3
_LONGEST_EXAMPLE = 300
_TAGS = ("lora", "peft", "seq2seq", "t5", "lora-s2s")
_FACTS = {
    "Training": ("training", "counts", "device", "versions"),
    "Data and input": ("data", "input", "base", "created"),
}
_ANSWER_TOKENS = 128


def write_card(
    adapter_dir: Path, *, name: str | None = None, max_new_tokens: int | None = None
) -> Path:
    """Writes the model card of an adapter's folder from its ``manifest.json`` and newest
    evaluation.

    Args:
        adapter_dir: the adapter's folder, finished or still being staged.
        name: the adapter's name where the folder's is not yet it.
        max_new_tokens: the length limit of answers; by default that of the newest scores, else of
            the targets in training.

    Raises:
        DataError: the manifest is missing or is not an object.
    """
    manifest = manifest_content(adapter_dir)
    rows = sample_rows(adapter_dir, _EXAMPLES)
    path = adapter_dir / ADAPTER_CONFIG
    config = read_json(path) if path.is_file() else {}
    card = render_card(
        name or adapter_dir.name,
        manifest,
        rows,
        config=config if isinstance(config, dict) else {},
        max_new_tokens=max_new_tokens,
    )
    write_text(adapter_dir / CARD, card)
    return adapter_dir / CARD


def render_card(
    name: str,
    manifest: Mapping[str, object],
    rows: Sequence[Mapping[str, object]] = (),
    *,
    config: Mapping[str, object] | None = None,
    max_new_tokens: int | None = None,
) -> str:
    """Returns the card as Markdown with YAML front matter.

    Args:
        config: the adapter's ``adapter_config.json``.
    """
    base, lines = base_name(manifest), score_lines(manifest.get("scores"))
    peft = peft_that_reads(config or {})
    head = card_head(base, tags=_TAGS, metrics=list(dict.fromkeys(line.metric for line in lines)))
    revision = _entry(manifest, "base", "revision")
    template = _entry(manifest, "input", "template")
    return render(
        "card.md",
        head=verbatim(head),
        name=name,
        base=base,
        bundled=base == DEMO_NAME,
        revision=revision if isinstance(revision, str) else None,
        max_new_tokens=max_new_tokens or _answer_tokens(manifest),
        peft=verbatim(peft or ""),
        peft_with_new_transformers=verbatim(WITH_NEW_TRANSFORMERS),
        silent=peft == "0.16",
        scores=lines,
        signatures=signatures(lines),
        examples=[(_short(row.get("source")), _short(row.get("prediction"))) for row in rows],
        fact_tables=[(title, _facts(manifest, sections)) for title, sections in _FACTS.items()],
        template=shown(template) if template else None,
    )


def _entry(manifest: Mapping[str, object], section: str, key: str) -> object:
    record = manifest.get(section)
    return record.get(key) if isinstance(record, Mapping) else None


def _answer_tokens(manifest: Mapping[str, object]) -> int:
    scores = manifest.get("scores")
    entries = scores.values() if isinstance(scores, Mapping) else ()
    records = [entry for entry in entries if isinstance(entry, Mapping)]
    decodings = [_entry(record, "decoding", "max_new_tokens") for record in records]
    limits = [_entry(manifest, "input", "max_target_tokens"), *decodings]
    valid = [limit for limit in limits if type(limit) is int and limit > 0]
    return valid[-1] if valid else _ANSWER_TOKENS


def _facts(manifest: Mapping[str, object], sections: Sequence[str]) -> list[tuple[str, str]]:
    return facts({section: manifest[section] for section in sections if section in manifest})


def _short(value: object) -> str:
    text = shown(value)
    return text if len(text) <= _LONGEST_EXAMPLE else f"{text[:_LONGEST_EXAMPLE]}…"
