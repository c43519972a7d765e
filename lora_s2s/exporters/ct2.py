"""CTranslate2: writes a model in its format.

The weights go through CTranslate2's own converter. Where that one relies on settings that
transformers 5 no longer has, or that it gives another meaning, they are set from the loaded model:
otherwise Flan-T5's logits are divided by √d_model, and BART is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_s2s.errors import UsageError
from lora_s2s.exporters import parity
from lora_s2s.exporters.exporter import Exporter, Job, Usage
from lora_s2s.files import naming
from lora_s2s.hub import locate_model
from lora_s2s.inference.ct2_engine import LACKS, Ct2Engine, library, searches_on
from lora_s2s.inference.engine import DecodingSettings, lacking
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.models.saving import save_tokenizer

# Families that CTranslate2 computes, with the settings that its converter expects in the config
# and that transformers 5 has dropped.
EXPECTED_SETTINGS: dict[str, dict[str, bool]] = {
    "t5": {},
    "mt5": {},
    "umt5": {},
    "t5gemma": {},
    "m2m_100": {},
    "marian": {},
    "bart": {"normalize_before": False, "normalize_embedding": True},
    "mbart": {"normalize_before": True, "normalize_embedding": True},
    "pegasus": {"normalize_before": True, "normalize_embedding": False},
}


def _write(job: Job, out: Path) -> None:
    predictor = load_predictor(job.model, dtype="float32", device="cpu")
    save_tokenizer(predictor.tokenizer, out)
    converted = out / "converted"  # a new folder is what the converter takes
    convert(predictor, locate_model(job.model), converted, job.precision)
    for path in converted.iterdir():
        path.rename(out / path.name)
    converted.rmdir()


def convert(predictor: Predictor, folder: Path, out: Path, precision: str) -> None:
    """Writes CTranslate2's files of a whole model into a new folder ``out``.

    Args:
        predictor: the model in float32. The converter changes its weights in place, so it is of no
            further use.
        folder: the model's folder, with ``config.json``.
        precision: one of CTranslate2's; with int8, what is not a matrix product stays float.

    Raises:
        SetupError: CTranslate2 is not installed.
        UsageError: CTranslate2 lacks the family, or its converter refuses the model.
    """
    EXPORTER.check_family(predictor.torch.model.config.model_type)
    converter = _converter(predictor, folder)
    try:
        with naming(out):
            converter.convert(str(out), quantization=precision)
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise UsageError(
            f"CTranslate2 cannot convert {predictor.name}: {error}",
            hint="export it as safetensors, for transformers: --format safetensors",
        ) from error


def _converter(predictor: Predictor, folder: Path) -> Any:
    """CTranslate2's converter on a model and tokenizer that are loaded already."""
    ctranslate2 = library()
    base: Any = ctranslate2.converters.TransformersConverter
    optional = ctranslate2.specs.model_spec.OPTIONAL

    class Converter(base):  # type: ignore[misc]
        def load_model(self, *_: object, **__: object) -> Any:
            return predictor.torch.model

        def load_tokenizer(self, *_: object, **__: object) -> Any:
            return predictor.tokenizer

        def _load(self) -> Any:
            config = predictor.torch.model.config
            for name, value in EXPECTED_SETTINGS[config.model_type].items():
                if not hasattr(config, name):
                    setattr(config, name, value)
            spec = super()._load()
            if isinstance(scaled := getattr(config, "scale_decoder_outputs", None), bool):
                spec.decoder.scale_outputs = config.d_model**-0.5 if scaled else optional
            _name_special_tokens(spec.config, predictor)
            return spec

    return Converter(str(folder))


def _name_special_tokens(config: Any, predictor: Predictor) -> None:
    """Sets the special tokens that a tokenizer does not name from the model's ids."""
    model_config = predictor.torch.model.config
    for name in ("bos_token", "eos_token"):
        if getattr(config, name) is None:
            token_id = getattr(model_config, f"{name}_id", None)
            known = predictor.tokenizer.eos_token_id if token_id is None else token_id
            setattr(config, name, predictor.tokenizer.convert_ids_to_tokens(known))
    config.unk_token = config.unk_token or predictor.tokenizer.pad_token
    start = model_config.decoder_start_token_id
    if start is not None and model_config.model_type != "marian":
        config.decoder_start_token = predictor.tokenizer.convert_ids_to_tokens(start)


def engine_of(predictor: Predictor, folder: Path, *, threads: int = 0) -> Ct2Engine:
    """Returns a converted folder's engine.

    Args:
        predictor: the model that it was made from.
        threads: of each product; 0 lets CTranslate2 choose.
    """
    return Ct2Engine(
        folder,
        predictor.tokenizer,
        prefix=predictor.answer_prefix,
        never=never_of(predictor),
        threads=threads,
    )


def never_of(predictor: Predictor) -> list[list[int]]:
    """Returns the sequences of ids that no answer of a model may hold."""
    marian = predictor.torch.model.config.model_type == "marian"
    # Marian's padding has no entry in the converted vocabulary, so nothing has to forbid it.
    padding = predictor.tokenizer.pad_token_id if marian else None
    return [ids for ids in parity.never_of(predictor) if padding not in ids]


def _lacks(settings: DecodingSettings) -> list[str]:
    search = ["early_stopping"] if searches_on(settings) else []
    return [*lacking(settings, LACKS), *search]


def _example(usage: Usage) -> str:
    first = list(usage.first_tokens)
    prefix = f"    target_prefix=[{first!r}],\n" if first else ""
    return f"""import ctranslate2
from transformers import AutoTokenizer

translator = ctranslate2.Translator("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
tokens = tokenizer.convert_ids_to_tokens(tokenizer("your text").input_ids)
result = translator.translate_batch(
    [tokens],
{prefix}    beam_size={usage.num_beams},
    max_decoding_length={usage.max_new_tokens},
    min_decoding_length=0,
)
ids = tokenizer.convert_tokens_to_ids(result[0].hypotheses[0])
print(tokenizer.decode(ids, skip_special_tokens=True))
"""


EXPORTER = Exporter(
    title="CTranslate2",
    bytes_per_weight={
        "float32": 4,
        "float16": 2,
        "bfloat16": 2,
        "int8": 1,
        "int8_float32": 1,
        "int8_float16": 1,
    },
    families=EXPECTED_SETTINGS,
    require=library,
    write=_write,
    engine=lambda predictor, folder, _: engine_of(predictor, folder),
    never=never_of,
    example=_example,
    lacks=_lacks,
)
