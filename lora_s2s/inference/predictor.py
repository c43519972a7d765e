"""An engine with its tokenizer and input settings: rows to sources, cut as in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from lora_s2s.errors import DataError, UsageError
from lora_s2s.examples.asking import is_blank, question_of
from lora_s2s.examples.conversations import SYSTEM_ROLES, fit_turns
from lora_s2s.examples.example import Example, Unusable
from lora_s2s.examples.shapes import DIALOGUES
from lora_s2s.inference.constraint import CONSTRAINED, constraint_of
from lora_s2s.inference.engine import DecodingSettings, Engine, refuse_settings
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.models.own_decoding import OwnDecoding
from lora_s2s.records import InputSettings
from lora_s2s.tokens.special_tokens import answer_prefix
from lora_s2s.tokens.tokenise import encode_source


@dataclass(frozen=True)
class Predictor:
    """An engine, its tokenizer, and the input settings that the model was trained with.

    ``max_positions`` is how many tokens a source or an answer may have, None where the model sets
    no limit; ``rows`` how many tokens the model knows; ``own_decoding`` the
    checkpoint's generation settings, None for an export.
    """

    name: str
    engine: Engine = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    settings: InputSettings = field(default_factory=InputSettings)
    max_positions: int | None = None
    rows: int | None = None
    own_decoding: OwnDecoding | None = None

    @property
    def torch(self) -> TorchEngine:
        """The engine of a model in torch.

        Raises:
            UsageError: the model was exported for another runtime.
        """
        if isinstance(self.engine, TorchEngine):
            return self.engine
        raise UsageError(
            f"{self.name} is an export for another runtime ({self.engine.runtime})",
            hint="name the adapter or model that it was made from",
        )

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter can be switched off."""
        return isinstance(self.engine, TorchEngine) and self.engine.has_adapter

    def baseline(self) -> Predictor:
        """Returns the same predictor with its adapter switched off: the base, without a second copy
        of its weights.

        Raises:
            UsageError: there is no adapter to switch off (a merged, exported or plain model).
        """
        if not self.has_adapter:
            raise UsageError(
                f"{self.name} is a whole model: nothing tells its base apart",
                hint="evaluate the adapter folder with --baseline, or evaluate the base by its own "
                "name",
            )
        return replace(self, engine=self.torch.without_adapter())

    def within_positions(self, settings: DecodingSettings) -> DecodingSettings:
        """Returns settings whose answers the model has positions for; the start takes one."""
        if self.max_positions is None or settings.max_new_tokens < self.max_positions:
            return settings
        return replace(settings, max_new_tokens=self.max_positions - 1)

    def check_constraint(self, settings: DecodingSettings) -> None:
        """Compiles what answers may be, before anything is decoded.

        Raises:
            UsageError: see :func:`lora_s2s.inference.constraint.constraint_of`; or the engine has
                none.
            SetupError: a package is missing.
        """
        if settings.constraint is None:
            return
        if self.engine.runtime not in CONSTRAINED:
            refuse_settings(settings, ("constraint",), runtime=self.engine.runtime)
        constraint_of(self.within_positions(settings), self.tokenizer)

    @cached_property
    def answer_prefix(self) -> tuple[int, ...]:
        """What every answer begins with and does not show: a language's token, or nothing."""
        return answer_prefix(self.tokenizer)

    @property
    def reads_dialogues(self) -> bool:
        """Whether the model was trained on conversations."""
        return self.settings.format in DIALOGUES

    def opened(self, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        """Returns turns that begin with a system text: theirs, or that of all training data."""
        text = self.settings.system
        if not text or any(turn["role"] in SYSTEM_ROLES for turn in turns[:1]):
            return turns
        return [{"role": "system", "content": text}, *turns]

    @property
    def max_source_tokens(self) -> int:
        """How many tokens a source may have, its frame included."""
        return min(
            self.settings.max_source_tokens, self.max_positions or self.settings.max_source_tokens
        )

    def encode(self, source: str) -> list[int]:
        """Returns the token ids of a rendered source, cut and framed as in training.

        Raises:
            DataError: the tokenizer was made for a larger vocabulary than the model's.
        """
        ids = self._cut(source, self.max_source_tokens)
        if self.rows is not None and max(ids, default=0) >= self.rows:
            message = (
                f"the tokenizer gives the token {max(ids)}, and the model has {self.rows:,}: they "
                "do not belong"
            )
            raise DataError(
                f"{message} together", hint="fetch the model's folder again", where=self.name
            )
        return ids

    def _cut(self, source: str, most: int) -> list[int]:
        side = self.settings.truncate_source
        return encode_source(source, self.tokenizer, max_source_tokens=most, truncate_source=side)

    def fitted(self, example: Example) -> str:
        """Returns an example's source, of a dialogue as many of its newest turns as the model reads
        at once.
        """
        if not example.turns:
            return example.source
        return fit_turns(example.turns, example.template, self.fits)

    def fits(self, source: str) -> bool:
        """Whether a rendered source is read without being truncated."""
        most = self.max_source_tokens
        return len(self._cut(source, most + 1)) <= most

    def is_blank(self, row: str | dict[str, Any]) -> bool:
        """Whether a text or row has no source."""
        how, template = self.settings, self.settings.first_template
        return is_blank(row, format=how.format, source_column=how.source_column, template=template)

    def render(self, row: str | Mapping[str, object]) -> str:
        """Returns the encoder's text for a plain text or a row, made where training's was made.

        A plain text is the source column, or the only one that the template needs; after training
        on dialogues, a user's turn. A dialogue loses its oldest turns where it would be too long.

        Raises:
            UsageError: a plain text where the template needs several columns.
            DataError: the row lacks the column, or it does not hold text.
        """
        return self.fitted(self.question(row))

    def question(self, row: str | Mapping[str, object]) -> Example:
        """Returns the example that :meth:`render` fits, with its whole source; raises likewise."""
        how, template = self.settings, self.settings.first_template
        if self.reads_dialogues and isinstance(row, str):
            row = {"messages": self.opened([{"role": "user", "content": row}])}
        try:
            return question_of(
                row, format=how.format, source_column=how.source_column, template=template
            )
        except Unusable as error:
            names = ", ".join(map(repr, row)) if isinstance(row, Mapping) else "a plain text"
            raise DataError(
                f"no source can be made of the row: {error}", hint=f"its columns: {names or 'none'}"
            ) from error
