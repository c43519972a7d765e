"""CTranslate2: writes a model in its format, and answers from there.

The weights go through CTranslate2's own converter. Where that one relies on settings that
transformers 5 no longer has, or that it gives another meaning, they are set from the loaded model:
otherwise Flan-T5's logits are divided by √d_model, and BART is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lora_s2s.errors import SetupError, UsageError
from lora_s2s.files import naming, read_json
from lora_s2s.inference.loading import Predictor

PRECISIONS = ("float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16")
INSTALL = "pip install 'lora-s2s[ct2]'"

# Families that CTranslate2 computes, with the settings that its converter expects in the config
# and that transformers 5 has dropped.
_EXPECTED_SETTINGS: dict[str, dict[str, bool]] = {
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
    if model_type not in _EXPECTED_SETTINGS:
        supported = ", ".join(_EXPECTED_SETTINGS)
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


def library() -> Any:
    """Returns the module ``ctranslate2`` with its converters.

    Raises:
        SetupError: it is not installed.
    """
    try:
        import ctranslate2
        import ctranslate2.converters.transformers
    except ImportError as error:
        raise SetupError(f"CTranslate2 is missing: {error}", hint=INSTALL) from error
    return ctranslate2


def _converter(predictor: Predictor, folder: Path) -> Any:
    """CTranslate2's converter on a model and tokenizer that are loaded already."""
    ctranslate2 = library()
    base: Any = ctranslate2.converters.TransformersConverter
    optional = ctranslate2.specs.model_spec.OPTIONAL

    class Converter(base):  # type: ignore[misc]
        def load_model(self, *_: object, **__: object) -> Any:
            return predictor.model

        def load_tokenizer(self, *_: object, **__: object) -> Any:
            return predictor.tokenizer

        def _load(self) -> Any:
            config = predictor.model.config
            for name, value in _EXPECTED_SETTINGS[config.model_type].items():
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
    model_config = predictor.model.config
    for name in ("bos_token", "eos_token"):
        if getattr(config, name) is None:
            token_id = getattr(model_config, f"{name}_id", None)
            known = predictor.tokenizer.eos_token_id if token_id is None else token_id
            setattr(config, name, predictor.tokenizer.convert_ids_to_tokens(known))
    config.unk_token = config.unk_token or predictor.tokenizer.pad_token
    start = model_config.decoder_start_token_id
    if start is not None and model_config.model_type != "marian":
        config.decoder_start_token = predictor.tokenizer.convert_ids_to_tokens(start)


@dataclass(frozen=True)
class Ct2Engine:
    """A converted model that answers, on a CPU.

    Attributes:
        prefix: tokens that every answer begins with: the target language, where a family needs one.
        never: sequences of tokens that no answer holds.
    """

    folder: Path
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    prefix: Sequence[int] = ()
    never: Sequence[Sequence[int]] = ()
    threads: int = 0
    _translator: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        translator = library().Translator(
            str(self.folder), device="cpu", intra_threads=self.threads
        )
        object.__setattr__(self, "_translator", translator)

    def answers(
        self, sources: Sequence[Sequence[int]], *, num_beams: int, max_new_tokens: int
    ) -> list[list[int]]:
        """Returns the ids of each answer, a language token in front included, ``</s>`` not."""
        results = self._translator.translate_batch(
            [self._tokens(source) for source in sources],
            target_prefix=[self._tokens(self.prefix)] * len(sources) if self.prefix else None,
            beam_size=num_beams,
            min_decoding_length=0,
            max_decoding_length=max_new_tokens,
            max_input_length=0,
            suppress_sequences=[self._tokens(ids) for ids in self.never] or None,
            max_batch_size=8192,
            batch_type="tokens",
        )
        return [self._ids(result.hypotheses[0]) for result in results]

    def log_probs(
        self, sources: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Returns the log-probability of each token of given answers, of the ``</s>`` after it too,
        in nats.
        """
        scored = self._translator.score_batch(
            [self._tokens(source) for source in sources],
            [self._tokens(answer) for answer in answers],
            max_input_length=0,
            max_batch_size=8192,
            batch_type="tokens",
        )
        return [list(result.log_probs) for result in scored]

    def vocabulary(self) -> list[str]:
        """Returns the token of each id, as the converted model knows it."""
        # One file where both sides share it, else one for each.
        shared = self.folder / "shared_vocabulary.json"
        path = shared if shared.is_file() else self.folder / "target_vocabulary.json"
        tokens: list[str] = read_json(path)
        return tokens

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        tokens: list[str] = self.tokenizer.convert_ids_to_tokens(list(ids))
        return tokens

    def _ids(self, tokens: Sequence[str]) -> list[int]:
        ids: list[int] = self.tokenizer.convert_tokens_to_ids(list(tokens))
        return ids


def engine_of(predictor: Predictor, folder: Path, *, threads: int = 0) -> Ct2Engine:
    """Returns a converted folder's engine, with the answers' fixed beginnings of its model.

    Args:
        threads: of each product; 0 lets CTranslate2 choose.
    """
    model = predictor.model
    first, banned = (
        model.generation_config.forced_bos_token_id,
        model.generation_config.bad_words_ids,
    )
    # Marian's padding has no entry in the converted vocabulary, so nothing has to forbid it.
    padding = predictor.tokenizer.pad_token_id if model.config.model_type == "marian" else None
    return Ct2Engine(
        folder,
        predictor.tokenizer,
        prefix=() if first is None else (first,),
        never=[ids for ids in banned or () if padding not in ids],
        threads=threads,
    )
