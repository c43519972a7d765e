"""The card of a whole model or an export in a repository, made from its manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lora_s2s.console import plain
from lora_s2s.files import mapping
from lora_s2s.hub import card_head
from lora_s2s.reports.card import Published, licenses_of, place
from lora_s2s.reports.render import render, verbatim
from lora_s2s.reports.summary import (
    NOTHING,
    base_name,
    flat,
    number,
    score_lines,
    shown,
    signatures,
)

_TAGS = ("seq2seq", "lora-s2s")
_LIBRARIES = {"ct2": "ctranslate2", "onnx": "onnx"}
_RUNTIMES = {"ct2": "CTranslate2", "onnx": "ONNX Runtime"}
_BLOCK = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
_TRANSFORMERS = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer("your text", return_tensors="pt")
output = model.generate(**inputs)
print(tokenizer.decode(output[0], skip_special_tokens=True, clean_up_tokenization_spaces=False))"""


def render_model_card(
    name: str, manifest: Mapping[str, object], published: Published, *, readme: str = ""
) -> str:
    """Returns the card as Markdown with YAML front matter.

    Args:
        manifest: of ``merge`` or ``export``; empty for a model from elsewhere.
        readme: the README.md that ``export`` wrote: its Python block runs the folder alone.
    """
    base, export = base_name(manifest), _section(manifest, "export")
    format, parity = str(export.get("format")), _section(manifest, "parity")
    runtime = _RUNTIMES.get(format)
    licenses = licenses_of(base, manifest, published)
    library = _LIBRARIES.get(format, "transformers")
    known = None if base == NOTHING else base
    template, merged = _section(manifest, "input").get("template"), _section(manifest, "merged")
    scores = score_lines(merged.get("scores") or manifest.get("scores"))
    metrics = list(dict.fromkeys(line.metric for line in scores))
    head = card_head(known, tags=_TAGS, metrics=metrics, license=licenses[0], library=library)
    return render(
        "model.md",
        head=verbatim(head),
        name=name,
        base=known,
        adapter=shown(merged["name"]) if "name" in merged else None,
        runtime=runtime,
        precision=shown(export.get("precision")),
        place=place(published),
        snippet=verbatim(_downloading(_of_export(readme) if runtime else _TRANSFORMERS, published)),
        scores=scores,
        signatures=signatures(scores),
        speeds=_speeds(parity, f"{runtime or 'this folder'}, {shown(export.get('precision'))}"),
        fact_tables=_fact_tables(manifest, parity),
        published=published,
        licenses=licenses,
        template=shown(template) if template else None,
    )


def _section(manifest: Mapping[str, object], name: str) -> Mapping[str, object]:
    return mapping(manifest.get(name))


def _of_export(readme: str) -> str:
    """Returns the Python of an export's README, which names its folder ``FOLDER``."""
    block = _BLOCK.search(readme)
    if not block or "```" in block[1]:
        return ""
    code = "\n".join(map(plain, block[1].split("\n")))
    return code.replace('"FOLDER"', "folder")


def _downloading(code: str, published: Published) -> str:
    """Returns code that uses ``folder``, with its download after the imports."""
    imports, _, rest = code.partition("\n\n")
    first = "from huggingface_hub import snapshot_download"
    return f"{first}\n{imports}\n\nfolder = {place(published)}\n{rest}" if code else ""


def _speeds(parity: Mapping[str, object], export: str) -> list[list[str]]:
    sides = {"reference": "transformers, float32", "export": export}
    speeds = {title: _section(parity, side) for side, title in sides.items() if side in parity}
    keys = ("tokens_per_second", "latency_p50", "latency_p95")
    return [[title, *(number(speed.get(key)) for key in keys)] for title, speed in speeds.items()]


def _fact_tables(
    manifest: Mapping[str, object], parity: Mapping[str, object]
) -> list[tuple[str, list[tuple[str, str]]]]:
    merged = _section(manifest, "merged")
    adapter = {key: value for key, value in merged.items() if key != "scores"}
    compared = {key: value for key, value in parity.items() if key not in ("reference", "export")}
    tables = {
        "Compared with the float32 model": compared,
        "What merging changed": _section(manifest, "check"),
        "Made from": {**_section(manifest, "base"), "adapter": adapter},
        "Input and answers": {**_section(manifest, "input"), **_section(manifest, "decoding")},
    }
    return [(title, list(flat("", section))) for title, section in tables.items()]
