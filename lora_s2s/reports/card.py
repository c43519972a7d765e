"""README.md of an adapter or model: its model card, made from its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.console import plain
from lora_s2s.files import mapping, read_json, write_text
from lora_s2s.hub import ADAPTER_CONFIG, DEMO_NAME, card_head
from lora_s2s.recipe.fields import FULL
from lora_s2s.records import manifest_content
from lora_s2s.reports.peft_versions import WITH_NEW_TRANSFORMERS, peft_that_reads
from lora_s2s.reports.render import python, render, verbatim
from lora_s2s.reports.samples import sample_rows
from lora_s2s.reports.summary import (
    base_name,
    facts,
    flat,
    recorded,
    score_lines,
    shown,
    signatures,
)

CARD = "README.md"
_EXAMPLES = 3
_LONGEST_EXAMPLE = 300
_TAGS = ("lora", "peft", "seq2seq", "t5", "lora-s2s")
_FACTS = {
    "Training": ("averaged", "counts", "training", "device", "versions"),
    "Data and input": ("base", "data", "input", "created"),
}
_ANSWER_TOKENS = 128
OWN_LICENSE = "apache-2.0"
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Published:
    """What a card says of the repository it is in: its name, the size of its files, and licenses.

    ``recipe`` holds the sections of an adapter's recipe.
    """

    repo: str
    bytes: int = 0
    base_license: str | None = None
    data_license: str | None = None
    recipe: Mapping[str, object] | None = None


def write_card(
    adapter_dir: Path, *, name: str | None = None, max_new_tokens: int | None = None
) -> Path:
    """Writes an adapter's model card from its ``manifest.json`` and last evaluation.

    Args:
        adapter_dir: the adapter's folder, perhaps a temporary one.
        name: the adapter's name if it differs from the folder's.
        max_new_tokens: the length limit of answers; by default that of the last evaluation, else of
            the training targets.

    Raises:
        DataError: the manifest is missing or not an object.
    """
    manifest = manifest_content(adapter_dir)
    rows = sample_rows(adapter_dir, _EXAMPLES)
    path = adapter_dir / ADAPTER_CONFIG
    config = mapping(read_json(path)) if path.is_file() else {}
    card = render_card(
        name or adapter_dir.name,
        manifest,
        rows,
        config=config,
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
    published: Published | None = None,
) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        config: the adapter's ``adapter_config.json``.
        published: the repository that the card is for; None for a folder on this machine.
    """
    base, lines = base_name(manifest), score_lines(manifest.get("scores"))
    peft = peft_that_reads(config or {})
    licenses = licenses_of(base, manifest, published)
    whole = manifest.get("method") == FULL
    head = card_head(
        base,
        tags=_TAGS[2:] if whole else _TAGS,
        library="transformers" if whole else "peft",
        metrics=list(dict.fromkeys(line.metric for line in lines)),
        license=licenses[0] if published else None,
    )
    revision = recorded(manifest, "base", "revision")
    template = recorded(manifest, "input", "template")
    return render(
        "card.md",
        head=verbatim(head),
        name=name,
        base=base,
        bundled=base == DEMO_NAME,
        add_end="plain_transformers" in manifest,
        revision=revision if isinstance(revision, str) else None,
        max_new_tokens=max_new_tokens or _answer_tokens(manifest),
        peft=verbatim(peft or ""),
        peft_with_new_transformers=verbatim(WITH_NEW_TRANSFORMERS),
        silent=peft == "0.16",
        whole=whole,
        scores=lines,
        signatures=signatures(lines),
        examples=[(_short(row.get("source")), _short(row.get("prediction"))) for row in rows],
        fact_tables=[(title, facts(manifest, sections)) for title, sections in _FACTS.items()],
        template=shown(template) if template else None,
        published=published,
        place=place(published),
        licenses=licenses,
        recipe=list(flat("", published.recipe)) if published and published.recipe else [],
    )


def place(published: Published | None) -> str:
    """Returns the Python expression of the folder: a download, or a place to fill in."""
    download = verbatim("snapshot_download({})")
    return (
        download.format(python(published.repo)) if published else verbatim('"PATH_TO_THIS_FOLDER"')
    )


def licenses_of(
    base: str, manifest: Mapping[str, object], published: Published | None
) -> tuple[str | None, str | None]:
    """Returns the licenses of the base and of the data, None where they are not known.

    Known are those that the user names, and the bundled base's and data's.
    """
    given = published or Published("")
    entries = mapping(manifest.get("sources")).values()
    recorded = [mapping(one).get("name") for listed in entries for one in _listed(listed)]
    splits = map(mapping(mapping(given.recipe).get("data")).get, _SPLITS)
    names = recorded or [name for value in splits if value for name in _listed(value)]
    ours = bool(names) and all(str(name).startswith("demo:") for name in names)
    base_license = given.base_license or (OWN_LICENSE if base == DEMO_NAME else None)
    data_license = given.data_license or (OWN_LICENSE if ours else None)
    return base_license and plain(base_license), data_license and plain(data_license)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _answer_tokens(manifest: Mapping[str, object]) -> int:
    records = map(mapping, mapping(manifest.get("scores")).values())
    decodings = [recorded(record, "decoding", "max_new_tokens") for record in records]
    limits = [recorded(manifest, "input", "max_target_tokens"), *decodings]
    valid = [limit for limit in limits if type(limit) is int and limit > 0]
    return valid[-1] if valid else _ANSWER_TOKENS


def _short(value: object) -> str:
    text = shown(value)
    return text if len(text) <= _LONGEST_EXAMPLE else f"{text[:_LONGEST_EXAMPLE]}…"
