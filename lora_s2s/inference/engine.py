"""What computes answers, in any runtime: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from lora_s2s.errors import UsageError


@dataclass(frozen=True)
class DecodingSettings:
    """How to decode.

    Attributes:
        max_new_tokens: hard limit per answer, ``</s>`` and a language code included; always passed
            on (the library's own limit is 20).
        num_beams: 1 is greedy; more is beam search with length penalty 1.
        batch_tokens: upper bound on padded source slots × beams of one batch (a longer source goes
            alone).
        early_stopping: whether a beam search ends with as many finished answers as beams, or goes
            on while a better one can come; None is the engine's default.
    """

    max_new_tokens: int = 128
    num_beams: int = 1
    batch_tokens: int = 8192
    early_stopping: bool | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "batch_tokens"):
            if (value := getattr(self, name)) < 1:
                raise UsageError(f"evaluation.{name} is {value}; expected at least 1")


class Engine(Protocol):
    """A model in any runtime."""

    @property
    def runtime(self) -> str:
        """Returns its name: ``torch``, ``ct2``, …"""

    def answers(
        self, sources: Sequence[Sequence[int]], settings: DecodingSettings
    ) -> list[list[int]]:
        """Answers one batch.

        Args:
            sources: token ids, special tokens included; rows may differ in length.
            settings: limits; ``batch_tokens`` is kept by the caller.

        Returns:
            each answer's ids: a forced first token included, the decoder's start not; ``</s>`` is
            the last where the answer ended by itself.

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
        self, sources: Sequence[Sequence[int]], settings: DecodingSettings, watch: Watch
    ) -> list[list[int]]:
        """Answers one batch greedily; see :meth:`Engine.answers`."""


class ExportedEngine(Engine, Protocol):
    """An engine that runs an exported folder."""

    def vocabulary(self) -> list[str]:
        """Returns the token of each id."""
