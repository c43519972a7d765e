"""The engine that runs a folder of CTranslate2's, on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lora_s2s.errors import DataError, UsageError, extra
from lora_s2s.files import read_json
from lora_s2s.inference.engine import (
    DecodingSettings,
    ExportedEngine,
    TokenIds,
    Watch,
    refuse_settings,
)
from lora_s2s.records import ExportManifest
from lora_s2s.tokens.special_tokens import answer_prefix

# Decoding settings that it lacks: it samples, but nobody could repeat the answer.
LACKS = ("temperature", "constraint")


def library() -> Any:
    """Returns the module ``ctranslate2`` with its converters.

    Raises:
        SetupError: it is not installed.
    """
    with extra("ct2"):
        import ctranslate2
        import ctranslate2.converters.transformers
    return ctranslate2


def searches_on(settings: DecodingSettings) -> bool:
    """Whether a beam search is to go on with as many answers as beams, which it does not here."""
    return settings.num_beams > 1 and settings.early_stopping is False


@dataclass(frozen=True)
class Ct2Engine:
    """A converted model.

    Attributes:
        prefix: tokens that every answer begins with: the target language, where a family needs one.
        never: sequences of tokens that no answer holds.
    """

    folder: Path
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    prefix: Sequence[int] = ()
    never: TokenIds = ()
    threads: int = 0
    runtime: str = "ct2"
    _translator: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        ctranslate2 = library()
        try:
            translator = ctranslate2.Translator(
                str(self.folder), device="cpu", intra_threads=self.threads
            )
        except (RuntimeError, ValueError, IndexError) as error:
            problem = f"CTranslate2 cannot load the model: {error}"
            raise DataError(problem, hint="export it again", where=str(self.folder)) from error
        object.__setattr__(self, "_translator", translator)

    def answers(self, sources: TokenIds, settings: DecodingSettings) -> list[list[int]]:
        """See :class:`lora_s2s.inference.engine.Engine`; ``early_stopping`` is always on."""
        return self._translate(sources, settings, None)

    def watched_answers(
        self, sources: TokenIds, settings: DecodingSettings, watch: Watch
    ) -> list[list[int]]:
        """See :class:`lora_s2s.inference.engine.WatchedEngine`."""
        produced: list[list[int]] = [list(self.prefix) for _ in sources]

        def step(result: Any) -> bool:
            ids = produced[result.batch_id]
            ids.append(result.token_id)
            return watch(result.batch_id, ids)

        return self._translate(sources, settings, step)

    def _translate(
        self,
        sources: TokenIds,
        settings: DecodingSettings,
        step: Callable[[Any], bool] | None,
    ) -> list[list[int]]:
        if searches_on(settings):
            raise UsageError(
                "CTranslate2 ends a beam search as soon as it has as many answers as beams",
                hint="--set evaluation.early_stopping=true, or answer with the model itself",
            )
        refuse_settings(settings, LACKS, runtime="CTranslate2")
        prefixes = [self._tokens(self.prefix)] * len(sources) if self.prefix else None
        results = self._translator.translate_batch(
            [self._tokens(source) for source in sources],
            target_prefix=prefixes,
            beam_size=settings.num_beams,
            length_penalty=settings.length_penalty,
            repetition_penalty=settings.repetition_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
            min_decoding_length=0,
            max_decoding_length=settings.max_new_tokens,
            max_input_length=0,
            suppress_sequences=[self._tokens(ids) for ids in self.never] or None,
            num_hypotheses=settings.returned,
            return_end_token=True,
            callback=step,
        )
        none: list[list[str]] = [[]] * settings.returned
        several = [[*result.hypotheses, *none][: settings.returned] for result in results]
        return [self._ids(tokens) for hypotheses in several for tokens in hypotheses]

    def log_probs(self, sources: TokenIds, answers: TokenIds) -> list[list[float]]:
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


def open_folder(
    folder: Path, tokenizer: PreTrainedTokenizerBase, manifest: ExportManifest
) -> ExportedEngine:
    """Opens what ``export --format ct2`` wrote, its files verified already.

    Raises:
        DataError: the manifest does not list the weights, or CTranslate2 refuses them.
        SetupError: CTranslate2 is not installed.
    """
    manifest.require(folder, "model.bin")
    return Ct2Engine(folder, tokenizer, prefix=answer_prefix(tokenizer), never=manifest.never)
