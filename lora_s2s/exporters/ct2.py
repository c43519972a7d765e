"""CTranslate2: writes a model in its format.

The weights go through CTranslate2's own converter. Where that one relies on settings that
transformers 5 no longer has, or that it gives another meaning, they are set from the loaded model:
otherwise Flan-T5's logits are divided by √d_model, and BART is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_s2s.errors import UsageError
from lora_s2s.files import naming
from lora_s2s.inference.ct2_engine import Ct2Engine, library
from lora_s2s.inference.predictor import Predictor
from lora_s2s.tokens.special_tokens import first_ids

PRECISIONS = ("float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16")

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


def check_family(model_type: str) -> None:
    """Checks that CTranslate2 computes a family.

    Raises:
        UsageError: it does not.
    """
    if model_type not in EXPECTED_SETTINGS:
        supported = ", ".join(EXPECTED_SETTINGS)
        raise UsageError(
            f"CTranslate2 does not support models of type '{model_type}'; it supports {supported}",
            hint="merge the adapter and run the model with transformers: lora-s2s merge",
        )


def convert(predictor: Predictor, folder: Path, out: Path, precision: str) -> None:
    """Writes CTranslate2's files of a whole model into a new folder ``out``.

    Args:
        predictor: the model in float32; its family passed :func:`check_family`. The converter
            changes its weights in place, so it is of no further use.
        folder: the model's folder, with ``config.json``.
        precision: one of :data:`PRECISIONS`; with int8, what is not a matrix product stays float.

    Raises:
        SetupError: CTranslate2 is not installed.
        UsageError: CTranslate2's converter refuses the model.
    """
    converter = _converter(predictor, folder)
    try:
        with naming(out):
            converter.convert(str(out), quantization=precision)
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise UsageError(
            f"CTranslate2 cannot convert {predictor.name}: {error}",
            hint="merge the adapter and run the model with transformers: lora-s2s merge",
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
    first = first_ids(predictor.tokenizer)["first"]
    return Ct2Engine(
        folder,
        predictor.tokenizer,
        prefix=() if first is None else (first,),
        never=never_of(predictor),
        threads=threads,
    )


def never_of(predictor: Predictor) -> list[list[int]]:
    """Returns the sequences of ids that no answer of a model may hold."""
    model = predictor.torch.model
    banned = model.generation_config.bad_words_ids or []
    # Marian's padding has no entry in the converted vocabulary, so nothing has to forbid it.
    padding = predictor.tokenizer.pad_token_id if model.config.model_type == "marian" else None
    return [list(ids) for ids in banned if padding not in ids]
