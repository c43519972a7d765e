"""``export``: a model or adapter in another runtime's format, checked against the model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.errors import UsageError, nearest
from lora_s2s.exporters import ct2, parity
from lora_s2s.files import require_space, write_text
from lora_s2s.hub import locate_model
from lora_s2s.inference.ct2_engine import Ct2Engine, library
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.lora.adapter import is_adapter
from lora_s2s.lora.merge import merge_adapter
from lora_s2s.outputs import check_writable, whole_folder
from lora_s2s.pipeline import html
from lora_s2s.pipeline.adapters import decoding_of
from lora_s2s.pipeline.merge import probe_texts
from lora_s2s.records import described, write

RUNTIMES = {"ct2": ct2.PRECISIONS}
_SOURCES = 64
_LONGEST_ANSWER = 128
_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


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
    data: str | None = None,
    base: str | None = None,
) -> ExportReport:
    """Writes a model in another runtime's format, or nothing where it does not answer the same.

    Args:
        model: an adapter's folder (merged on the way), a model's folder, a hub name, or ``demo``.
        out: the new folder.
        format: a key of :data:`RUNTIMES`.
        precision: of the weights; see :data:`lora_s2s.exporters.ct2.PRECISIONS`.
        data: what to compare on; by default what the adapter was scored or trained on.
        base: a base in place of the one that an adapter names.

    Raises:
        UsageError: an unknown format or precision, a family that the runtime lacks, or ``out``
            exists.
        RunError: the export answers differently; nothing is left at ``out``.
        SetupError: the runtime is not installed.
    """
    _check_choices(format, precision)
    library()  # before minutes go into merging
    folder = Path(model).expanduser()
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{out} is inside the model's folder", hint="choose another folder")
    check_writable(out.parent)
    texts = probe_texts(folder, data, count=_SOURCES)
    decoding = decoding_of(folder)
    with whole_folder(out) as staged:
        whole = _whole_model(model, staged / "work", texts, base)
        predictor = load_predictor(whole, dtype="float32", device="cpu")
        ct2.check_family(predictor.torch.model.config.model_type)
        parameters = sum(weight.numel() for weight in predictor.torch.model.parameters())
        require_space(staged.parent, parameters * _SIZES.get(precision, 1))
        ct2.convert(predictor, locate_model(whole), staged / "work" / "ct2", precision)
        predictor = load_predictor(whole, dtype="float32", device="cpu")
        engine = ct2.engine_of(predictor, staged / "work" / "ct2")
        reference = parity.Reference(predictor)
        sources = [predictor.encode(text) for text in dict.fromkeys(texts)]
        limits = predictor.within_positions(DecodingSettings(decoding["max_new_tokens"]))
        decoding = {**decoding, "max_new_tokens": limits.max_new_tokens}
        most = min(limits.max_new_tokens, _LONGEST_ANSWER)
        say(f"comparing {len(sources)} sources with the float32 model")
        measured = parity.compare(reference, engine, sources, max_new_tokens=most)
        parity.check(measured, reference, engine, precision)
        predictor.tokenizer.save_pretrained(staged)
        for path in (staged / "work" / "ct2").iterdir():
            shutil.move(path, staged / path.name)
        shutil.rmtree(staged / "work")
        size = sum(path.stat().st_size for path in staged.iterdir())
        report = ExportReport(str(out), format, precision, size, measured)
        _describe(staged, report, engine, predictor, decoding)
    return report


def _check_choices(format: str, precision: str) -> None:
    if format not in RUNTIMES:
        raise UsageError(
            f"unknown format '{format}'{nearest(str(format), RUNTIMES)}",
            hint=f"--format {' or '.join(RUNTIMES)}",
        )
    if precision not in RUNTIMES[format]:
        raise UsageError(
            f"{format} has no precision '{precision}'{nearest(str(precision), RUNTIMES[format])}",
            hint=f"--precision {', '.join(RUNTIMES[format])}",
        )


def _whole_model(model: str, work: Path, texts: list[str], base: str | None) -> str:
    """Returns a whole model's name: an adapter is merged into ``work``, a new folder."""
    work.mkdir()
    folder = Path(model).expanduser()
    if not (folder.is_dir() and is_adapter(folder)):
        if base is not None:
            raise UsageError(
                f"{model} is not an adapter, so it takes no --base", hint="omit --base"
            )
        return model
    merged = work / "merged"
    merge_adapter(folder, merged, dtype="float32", base_override=base, probe_texts=texts[:16])
    return str(merged)


def _describe(
    staged: Path,
    report: ExportReport,
    engine: Ct2Engine,
    predictor: Predictor,
    decoding: dict[str, int],
) -> None:
    contents = {
        "format": 1,
        "export": {"format": report.format, "precision": report.precision},
        "input": vars(predictor.settings),
        "decoding": decoding,
        "positions": predictor.max_positions,
        "never": list(engine.never),
        "parity": report.parity.to_dict(),
        "files": described(staged.iterdir()),
    }
    write(staged, contents)
    prefix = engine.tokenizer.convert_ids_to_tokens(list(engine.prefix))
    begins = f"    target_prefix=[{prefix!r}],\n" if prefix else ""
    text = _README.format(precision=report.precision, target_prefix=begins, **decoding)
    write_text(staged / "README.md", text)


_README = """# A CTranslate2 model

Written by `lora-s2s export --format ct2 --precision {precision}`. It was compared with the float32
model in transformers on real inputs; `manifest.json` holds the figures.

```python
import ctranslate2
from transformers import AutoTokenizer

translator = ctranslate2.Translator("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
tokens = tokenizer.convert_ids_to_tokens(tokenizer("your text").input_ids)
result = translator.translate_batch(
    [tokens],
{target_prefix}    beam_size={num_beams},
    max_decoding_length={max_new_tokens},
    min_decoding_length=0,
)
ids = tokenizer.convert_tokens_to_ids(result[0].hypotheses[0])
print(tokenizer.decode(ids, skip_special_tokens=True))
```
"""
