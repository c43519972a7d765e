"""What computes answers, in any runtime: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

from lora_s2s.errors import UsageError, with_settings
from lora_s2s.recipe.constraint import Value

# The step's logits have one row per hypothesis and the whole vocabulary: short sources alone would
# not bound them.
MOST_HYPOTHESES = 512


@dataclass(frozen=True)
class DecodingSettings:
    """How to decode.

    Attributes:
        max_new_tokens: hard limit per answer, ``</s>`` and a language code included; always passed
            on (the library's own limit is 20).
        num_beams: 1 is greedy; more is beam search.
        batch_tokens: upper bound on padded source slots × beams of one batch (a longer source goes
            alone).
        early_stopping: whether a beam search ends with as many finished answers as beams, or goes
            on while a better one can come; None is the engine's default.
        length_penalty: exponent of the length that a beam's score is divided by.
        repetition_penalty, no_repeat_ngram_size: as in transformers; 1 and 0 are off.
        temperature: above 0 samples; ``top_p`` is the share of the most likely tokens among which.
        seed: of sampling; the answer depends on it and on the source, not on the batch.
        constraint: what answers may be, as a recipe says it, read from any file already; see
            :mod:`lora_s2s.recipe.constraint`.
        n_best: how many answers of each source are returned, with scores: the best beams, or
            samples; 0 returns one without.
        mbr: a metric, by which the answer is chosen among the beams, or among ``mbr_candidates``
            samples.
        decoding: ``checkpoint`` where a checkpoint's settings that are none of these are followed.
    """

    max_new_tokens: int = 128
    num_beams: int = 1
    batch_tokens: int = 8192
    early_stopping: bool | None = None
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    constraint: Value | None = None
    n_best: int = 0
    decoding: str = "default"
    mbr: str | None = None
    mbr_candidates: int = 16

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "batch_tokens"):
            if (value := getattr(self, name)) < 1:
                raise UsageError(f"evaluation.{name} is {value}; expected at least 1")
        if self.temperature > 0 and self.num_beams > 1:
            raise UsageError(
                f"evaluation.temperature {self.temperature:g} samples, and "
                f"evaluation.num_beams {self.num_beams} searches: not both",
                hint="--set evaluation.num_beams=1, or --set evaluation.temperature=0",
            )
        if self.mbr is not None and self.returned == 1:
            raise UsageError(
                f"evaluation.mbr {self.mbr} chooses among several answers, and greedy search finds "
                "1",
                hint="--set evaluation.num_beams=8, or sample: --set evaluation.temperature=1",
            )
        if self.mbr is not None and self.n_best:
            raise UsageError(
                f"evaluation.n_best {self.n_best} and evaluation.mbr {self.mbr} exclude each "
                "other: one lists what the other chooses from",
                hint="--set evaluation.n_best=0, or --set evaluation.mbr=null",
            )
        if self.n_best > self.num_beams and not self.temperature:
            found = "greedy search finds 1 answer"
            if self.num_beams > 1:
                found = f"evaluation.num_beams {self.num_beams} finds as many answers"
            raise UsageError(
                f"evaluation.n_best is {self.n_best}, and {found}",
                hint=f"--set evaluation.num_beams={self.n_best}, or sample: --set "
                "evaluation.temperature=1",
            )

    @property
    def returned(self) -> int:
        """How many answers of each source an engine returns."""
        if self.mbr is None:
            return max(1, self.n_best)
        return self.num_beams if self.temperature == 0 else self.mbr_candidates

    @property
    def hypotheses(self) -> int:
        """How many answers of each source are decoded at once."""
        return max(self.num_beams, self.returned)

    def without_scores(self) -> DecodingSettings:
        """Returns the settings for one answer to each source, without scores."""
        return replace(self, n_best=0)

    def rows_at_once(self, longest: int) -> int:
        """Returns how many sources of up to ``longest`` tokens one batch may have."""
        fitting = self.batch_tokens // max(longest, 1)
        return max(1, min(fitting, MOST_HYPOTHESES) // self.hypotheses)

    def changed(self) -> dict[str, Any]:
        """Returns the settings of an answer's content that are not at their defaults, and always
        the length limit and the beams.
        """
        defaults = {field.name: field.default for field in fields(self)}
        always = ("max_new_tokens", "num_beams")
        return {
            name: value
            for name, value in vars(self).items()
            if name in always or (name != "batch_tokens" and value != defaults[name])
        }


def lacking(settings: DecodingSettings, names: Sequence[str]) -> list[str]:
    """Returns which settings that a runtime lacks are not at their defaults."""
    samples = "temperature" in names and settings.temperature > 0
    changed = settings.changed()
    # What samples comes first.
    return [name for name in [*(["mbr"] if samples else []), *names] if name in changed]


def refuse_settings(settings: DecodingSettings, names: Sequence[str], *, runtime: str) -> None:
    """Refuses settings that a runtime lacks, where they are not at their defaults.

    Raises:
        UsageError: one is in use.
    """
    if used := lacking(settings, names):
        defaults = {field.name: field.default for field in fields(settings)}
        none = [f"evaluation.{name}={defaults[name]}".replace("=None", "=null") for name in used]
        raise UsageError(
            f"{runtime} has no evaluation.{used[0]}",
            hint=f"answer with the model itself; or without it: {with_settings(*none)}",
        )


TokenIds: TypeAlias = Sequence[Sequence[int]]
"""Token ids of several texts, which may differ in length."""


class Engine(Protocol):
    """A model in any runtime."""

    @property
    def runtime(self) -> str:
        """Returns its name: ``torch``, ``ct2``, …"""

    def answers(self, sources: TokenIds, settings: DecodingSettings) -> list[list[int]]:
        """Answers one batch.

        Args:
            sources: token ids, special tokens included; rows may differ in length.
            settings: limits; ``batch_tokens`` is kept by the caller.

        Returns:
            each answer's ids: a forced first token included, the decoder's start not; ``</s>`` is
            the last where the answer ended by itself. Of each source as many as
            ``settings.returned``, one after another, best first or in the order of drawing.

        Raises:
            UsageError: a setting that the runtime lacks, by name.
            ResourceError: the batch does not fit the memory.
        """


Watch: TypeAlias = Callable[[int, list[int]], bool]
"""Called after each token of an answer, with its place in the batch and its ids so far; True ends
it there.
"""


@runtime_checkable
class WatchedEngine(Engine, Protocol):
    """An engine whose greedy answers can be followed while they are produced."""

    def watched_answers(
        self, sources: TokenIds, settings: DecodingSettings, watch: Watch
    ) -> list[list[int]]:
        """Answers one batch greedily; see :meth:`Engine.answers`."""


Answer: TypeAlias = tuple[int, list[int]]
"""An answer's place among those that :meth:`Engine.answers` returns, and its ids; the answers to a
source come one after another.
"""


@runtime_checkable
class QueuedEngine(Engine, Protocol):
    """An engine that makes its batches itself."""

    def queued_answers(
        self, sources: TokenIds, settings: DecodingSettings
    ) -> Iterator[Answer] | None:
        """Answers any number of sources, in the order in which the answers end.

        Returns:
            the answers, or None where batches must be made for these settings; see
            :meth:`Engine.answers`.
        """


@runtime_checkable
class ExportedEngine(Engine, Protocol):
    """An engine that runs an exported folder."""

    def log_probs(self, sources: TokenIds, answers: TokenIds) -> list[list[float]]:
        """Returns the log-probability of each answer's tokens, ``</s>`` included, in nats; the
        answers come without it.
        """

    def vocabulary(self) -> list[str]:
        """Returns the token of each id."""
