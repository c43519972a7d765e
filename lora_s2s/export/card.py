"""README.md of an adapter: a model card for people and hubs, made from its manifest.

Names and texts in it come from users' files. They are escaped so that they can be nothing but text:
no links, no HTML, no table cells of their own, no YAML keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_s2s.console import plain
from lora_s2s.evaluation.report import sample_rows
from lora_s2s.evaluation.summary import ScoreLine, base_name, facts, score_lines, shown
from lora_s2s.files import read_json, write_text
from lora_s2s.hub import ADAPTER_CONFIG, DEMO_NAME
from lora_s2s.lora.versions import WITH_NEW_TRANSFORMERS, peft_that_reads
from lora_s2s.records import manifest_content

CARD = "README.md"
_EXAMPLES = 3
_LONGEST_EXAMPLE = 300
# CommonMark lets any ASCII punctuation be escaped; these can start markup, an entity, a bare link
# or a mention.
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&:@$^\"'=/])")


def write_card(adapter_dir: Path, *, name: str | None = None) -> Path:
    """Writes the model card of an adapter's folder from its ``manifest.json`` and newest
    evaluation.

    Args:
        adapter_dir: the adapter's folder, finished or still being staged.
        name: the adapter's name where the folder's is not yet it.

    Raises:
        DataError: the manifest is missing or is not an object.
    """
    manifest = manifest_content(adapter_dir)
    rows = sample_rows(adapter_dir, _EXAMPLES)
    config = (
        read_json(adapter_dir / ADAPTER_CONFIG) if (adapter_dir / ADAPTER_CONFIG).is_file() else {}
    )
    config = config if isinstance(config, dict) else {}
    write_text(
        adapter_dir / CARD, render_card(name or adapter_dir.name, manifest, rows, config=config)
    )
    return adapter_dir / CARD


def render_card(
    name: str,
    manifest: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Returns the card as Markdown with YAML front matter.

    Args:
        config: the adapter's ``adapter_config.json``.
    """
    base = base_name(manifest)
    parts = [
        _front_matter(base, manifest),
        f"# {markdown(name)}",
        f"A LoRA adapter for the encoder–decoder model **{markdown(base)}**, trained with "
        "`lora-s2s`. It holds the adapter's weights only; the base is loaded beside it.",
        _usage(base, manifest, config or {}),
        _scores(score_lines(manifest.get("scores"))),
        _examples(rows),
        _facts("Training", manifest, ("training", "counts", "device", "versions")),
        _facts("Data and input", manifest, ("data", "input", "base", "created")),
        _limits(manifest),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown(text: str) -> str:
    """Returns a text from outside as inert Markdown: one line, controls shown, every mark
    escaped.
    """
    return _MARKUP.sub(r"\\\1", plain(text))


def _front_matter(base: str, manifest: Mapping[str, Any]) -> str:
    # A JSON string is a YAML string. Metric values are left to the table: hubs want dataset ids for
    # them.
    scored = dict.fromkeys(line.metric for line in score_lines(manifest.get("scores")))
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {json.dumps(base, ensure_ascii=False)}",
        "pipeline_tag: text2text-generation",
        "tags:",
        *(f"- {tag}" for tag in ("lora", "peft", "seq2seq", "t5", "lora-s2s")),
        *(["metrics:"] if scored else []),
        *(f"- {json.dumps(metric, ensure_ascii=False)}" for metric in scored),
        "---",
    ]
    return "\n".join(lines)


def _usage(base: str, manifest: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    record = manifest.get("base")
    revision = record.get("revision") if isinstance(record, Mapping) else None
    named = [
        _python(base),
        *([f"revision={_python(revision)}"] if isinstance(revision, str) else []),
    ]
    files, place, comment = "", ", ".join(named), "the base's hub name or folder"
    if base == DEMO_NAME:
        files, comment = (
            "from importlib.resources import files\n\n",
            "the base comes with the package lora-s2s",
        )
        place = 'files("lora_s2s") / "demo" / "base"'
    return (
        "## Use\n\n"
        '```bash\nlora-s2s predict PATH_TO_THIS_FOLDER "your text"\n```\n\n'
        "or with PEFT alone:\n\n"
        f"```python\n{files}"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n"
        'folder = "PATH_TO_THIS_FOLDER"\n'
        f"base = AutoModelForSeq2SeqLM.from_pretrained({place})  # {comment}\n"
        "model = PeftModel.from_pretrained(base, folder).eval()\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        'inputs = tokenizer("your text", return_tensors="pt")\n'
        "output = model.generate(**inputs, max_new_tokens=128)\n"
        "print(tokenizer.decode(output[0], skip_special_tokens=True, "
        "clean_up_tokenization_spaces=False))\n"
        f"```{_versions(config)}"
    )


def _python(text: str) -> str:
    return json.dumps(plain(text), ensure_ascii=False).replace("`", "\\u0060")


def _versions(config: Mapping[str, Any]) -> str:
    """Returns a paragraph on the versions of PEFT that read the adapter; empty where they are not
    known.
    """
    oldest = peft_that_reads(config)
    if oldest is None:
        return ""
    silent = " Older versions load an OFT adapter without any effect, and without an error." * (
        oldest == "0.16"
    )
    return (
        f"\n\nPEFT {oldest} or newer reads it; beside transformers 5.23 or newer, PEFT "
        f"{WITH_NEW_TRANSFORMERS} or newer.{silent}"
    )


def _scores(lines: Sequence[ScoreLine]) -> str:
    if not lines:
        return "## Scores\n\nNot evaluated yet: `lora-s2s eval PATH_TO_THIS_FOLDER --baseline`."
    heads = ("Data", "Sources", "Metric", "Base", "Adapter", "Difference", "p")
    cells = [
        (
            line.evaluation,
            line.n,
            line.metric,
            line.baseline,
            line.adapter,
            line.difference,
            line.p_value,
        )
        for line in lines
    ]
    signatures = dict.fromkeys(
        f"- {markdown(line.metric)}: {markdown(line.signature)}" for line in lines
    )
    return (
        f"## Scores\n\n{_table(heads, cells)}\n\nFrom 0 to 100, with 95 % intervals over sources; "
        "differences and p-values are paired. Signatures:\n\n" + "\n".join(signatures)
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    return "\n".join(lines + [f"| {' | '.join(markdown(cell) for cell in row)} |" for row in rows])


def _examples(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    cells = [(_short(row.get("source")), _short(row.get("prediction"))) for row in rows]
    return f"## Examples\n\n{_table(('Source', 'Answer'), cells)}"


def _short(value: object) -> str:
    text = shown(value)
    return text if len(text) <= _LONGEST_EXAMPLE else f"{text[:_LONGEST_EXAMPLE]}…"


def _facts(title: str, manifest: Mapping[str, Any], sections: Sequence[str]) -> str:
    pairs = facts({section: manifest[section] for section in sections if section in manifest})
    return f"## {title}\n\n{_table(('', ''), pairs)}" if pairs else ""


def _limits(manifest: Mapping[str, Any]) -> str:
    settings = manifest.get("input")
    template = settings.get("template") if isinstance(settings, Mapping) else None
    shaped = (
        f" It expects its input as in training: {markdown(shown(template))}." if template else ""
    )
    return (
        "## Limits\n\n"
        f"Trained for one task on the data above; elsewhere it may be fluent and wrong.{shaped} "
        "The scores hold for data like the data they were measured on. Characters that the "
        "tokenizer lacks are lost, and whatever is wrong or one-sided in the base or the data is "
        "here too. Base and data keep their own licences."
    )
