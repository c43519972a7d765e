"""``export``: a model or adapter in another runtime's format, checked against the model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_s2s.console import say, warn
from lora_s2s.errors import UsageError, nearest
from lora_s2s.exporters import parity
from lora_s2s.exporters.exporter import Exporter, Job, Usage
from lora_s2s.exporters.formats import EXPORTERS
from lora_s2s.files import described, require_space, write_text
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.outputs import check_new, whole_folder
from lora_s2s.pipeline import html
from lora_s2s.pipeline.export_source import ExportSource, asked_decoding, open_source
from lora_s2s.pipeline.merge import probe_texts
from lora_s2s.recipe.amounts import bytes_of
from lora_s2s.records import write
from lora_s2s.training.run_lock import run_lock

_SOURCES = 64
_SOURCES_OF_A_STEP = 16
_LONGEST_ANSWER = 128


@dataclass(frozen=True)
class ExportReport:
    """An export's folder and how it compares with the model; ``bytes`` of all its files."""

    out: str
    format: str
    precision: str
    bytes: int
    parity: parity.Parity

    def to_dict(self) -> dict[str, object]:
        """Returns the object of ``export --json``."""
        return {**vars(self), "parity": self.parity.to_dict()}

    def _repr_html_(self) -> str:
        return html.exported(self)


def export_model(
    model: str,
    out: Path,
    *,
    format: str = "ct2",
    precision: str = "float32",
    max_shard_size: str | int | None = None,
    data: str | None = None,
    base: str | None = None,
    kept: bool = True,
) -> ExportReport:
    """Writes a model in another runtime's format, or nothing where it does not answer the same.

    Args:
        model: an adapter's folder (merged on the way), a model's folder, a hub name, or ``demo``.
        out: the new folder.
        format: a key of :data:`lora_s2s.exporters.formats.EXPORTERS`.
        precision: of the weights, one of the format's.
        max_shard_size: the most bytes of a file of safetensors, as a number or such as ``2GB``;
            one file by default.
        data: what to compare on; by default what the adapter was scored or trained on.
        base: a base in place of the one that an adapter names.
        kept: False for a step of an evaluation: compared on fewer sources (16, not 64), and without
            a word on settings that the runtime lacks, as the evaluation has its own.

    Raises:
        UsageError: an unknown format or precision, a family that the runtime lacks, ``out`` exists,
            or another process writes it.
        RunError: the export answers differently; nothing is left at ``out``.
        SetupError: the runtime is not installed.
        ResourceError: too little disk space.
    """
    exporter = _exporter(format, precision)
    shard_bytes = _shard_bytes(max_shard_size, format)
    exporter.require()  # before minutes go into loading
    folder = Path(model).expanduser()
    _check_place(folder, out)
    texts = probe_texts(folder, data, count=_SOURCES if kept else _SOURCES_OF_A_STEP)
    decoding, left_out = asked_decoding(folder, format)
    with whole_folder(out) as new, run_lock(out, work="exporting to", hint="choose another folder"):
        given = open_source(model, base)
        predictor = given.predictor
        exporter.check_family(predictor.torch.model.config.model_type)
        _check_space(given, exporter.bytes_per_weight[precision], new)
        limits = predictor.within_positions(DecodingSettings(decoding["max_new_tokens"]))
        decoding = {**decoding, "max_new_tokens": limits.max_new_tokens}
        expected = _expected(predictor, texts, limits.max_new_tokens)
        job = Job(given.whole(new / "work", decoding), precision, decoding, shard_bytes)
        exporter.write(job, new)
        shutil.rmtree(new / "work", ignore_errors=True)
        engine = exporter.engine(predictor, new, precision)
        say(f"comparing {len(expected.sources)} sources with the float32 model")
        measured = parity.compare(expected, engine)
        parity.check(measured, expected.reference, engine, precision)
        size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
        report = ExportReport(str(out), format, precision, size, measured)
        possible = {key: value for key, value in decoding.items() if key not in left_out}
        _describe(new, report, exporter, given, possible)
    for name, able in left_out.items() if kept else ():
        warn(
            f"{exporter.title} has no evaluation.{name}: the export answers without it; "
            f"--format {' or '.join(able)}, or {model} itself, applies it"
        )
    return report


def _exporter(format: str, precision: str) -> Exporter:
    if format not in EXPORTERS:
        raise UsageError(
            f"unknown format '{format}'{nearest(str(format), EXPORTERS)}",
            hint=f"--format {' or '.join(EXPORTERS)}",
        )
    precisions = EXPORTERS[format].bytes_per_weight
    if precision not in precisions:
        raise UsageError(
            f"{format} has no precision '{precision}'{nearest(str(precision), precisions)}",
            hint=f"--precision {', '.join(precisions)}",
        )
    return EXPORTERS[format]


def _shard_bytes(size: str | int | None, format: str) -> int | None:
    """Reads a size: ``2GB``, or a number of bytes.

    Raises:
        UsageError: it is not one, or the format has no shards.
    """
    if size is None:
        return None
    if format != "safetensors":
        raise UsageError(
            f"{format} has no shards, so it takes no --max-shard-size",
            hint="omit --max-shard-size, or --format safetensors",
        )
    return bytes_of(str(size), "--max-shard-size", plain=True)


def _check_place(folder: Path, out: Path) -> None:
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        where = "" if out.resolve() == folder.resolve() else "inside "
        raise UsageError(f"{out} is {where}the model's folder", hint="choose another folder")
    check_new(out)


def _check_space(given: ExportSource, bytes_per_weight: int, folder: Path) -> None:
    weights = sum(weight.numel() for weight in given.predictor.torch.model.parameters())
    merged = 4 if given.adapter is not None else 0  # written in float32 on the way
    require_space(folder.parent, weights * (bytes_per_weight + merged))


def _expected(predictor: Predictor, texts: list[str], max_new_tokens: int) -> parity.Expected:
    sources = [predictor.encode(text) for text in dict.fromkeys(texts)]
    most = min(max_new_tokens, _LONGEST_ANSWER)
    return parity.expect(parity.Reference(predictor), sources, max_new_tokens=most)


def _describe(
    folder: Path,
    report: ExportReport,
    exporter: Exporter,
    given: ExportSource,
    decoding: Mapping[str, Any],
) -> None:
    predictor, config = given.predictor, given.predictor.torch.model.config
    never = exporter.never(predictor)
    contents = {
        **given.origin,
        "export": {"format": report.format, "precision": report.precision},
        "decoding": decoding,
        "positions": predictor.max_positions,
        "start": config.decoder_start_token_id,
        "never": [list(ids) for ids in never],
        "parity": report.parity.to_dict(),
        "files": described((path for path in folder.rglob("*") if path.is_file()), within=folder),
    }
    write(folder, contents)
    first = predictor.torch.model.generation_config.forced_bos_token_id
    tokens = predictor.tokenizer.convert_ids_to_tokens([] if first is None else [first])
    usage = Usage(tokens, decoding["max_new_tokens"], decoding["num_beams"], report.precision)
    text = _README.format(
        title=exporter.title,
        format=report.format,
        precision=report.precision,
        example=exporter.example(usage),
    )
    write_text(folder / "README.md", text)


_README = """# A model for {title}

Written by `lora-s2s export --format {format} --precision {precision}`. It was compared with the
float32 model in transformers on real inputs; `manifest.json` holds the figures.

```python
{example}```
"""
