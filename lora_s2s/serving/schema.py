"""What a request may say, in OpenAI's shape.

A field of OpenAI's that has no effect here takes only the value that means nothing; any other
value, and any other field, is refused by name.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from lora_s2s import limits
from lora_s2s.documents import Record
from lora_s2s.recipe.constraint import Value

_One = Annotated[float, Field(ge=1, le=1)]
_Zero = Annotated[float, Field(ge=0, le=0)]
# 0 is greedy; 1 is the protocol's default, which clients send without meaning it.
_Temperature = Annotated[float, Field(ge=0, le=1, multiple_of=1)]
_Stop = Annotated[str, Field(min_length=1, max_length=limits.LONGEST_STOP)]
_Row = dict[str, Any]
_Nothing = Annotated[list[object], Field(max_length=0)]


class _Strict(Record):
    model_config = ConfigDict(extra="forbid", defer_build=False)


class StreamOptions(_Strict):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class PlainText(_Strict):
    """Answers as the model gives them; the server's own constraint, if it has one, still holds."""

    type: Literal["text"]

    @property
    def constraint(self) -> Value | None:
        """What a recipe would say for it."""
        return None


class AnyObject(_Strict):
    """Answers are JSON objects."""

    type: Literal["json_object"]

    @property
    def constraint(self) -> Value:
        """See :class:`PlainText`."""
        return 'json: {"type": "object"}'


class NamedSchema(_Strict):
    """A JSON Schema as OpenAI's API takes it."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = Field(default=None, description="Accepted: answers always fit.")
    schema_: dict[str, Any] = Field(alias="schema")


class OfSchema(_Strict):
    """Answers fit a JSON Schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def constraint(self) -> Value:
        """See :class:`PlainText`."""
        return f"json: {json.dumps(self.json_schema.schema_, ensure_ascii=False)}"


class OfLabels(_Strict):
    """Answers are labels of a list; not in OpenAI's API."""

    type: Literal["labels"]
    labels: list[str]

    @property
    def constraint(self) -> Value:
        """See :class:`PlainText`."""
        return tuple(self.labels)


class OfExpression(_Strict):
    """Answers fit a regular expression; not in OpenAI's API."""

    type: Literal["regex"]
    regex: str

    @property
    def constraint(self) -> Value:
        """See :class:`PlainText`."""
        return f"regex: {self.regex}"


ResponseFormat = Annotated[
    PlainText | AnyObject | OfSchema | OfLabels | OfExpression,
    Field(discriminator="type"),
]


class _Request(_Strict):
    """What both endpoints take."""

    model: str | None = Field(
        default=None, description="A name from /v1/models. Default: the first."
    )
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        default=None, description="Longest answer in tokens, at most the server's own limit."
    )
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = Field(default=None, description="Accepted: answers are not random.")
    user: str | None = Field(default=None, description="Accepted, not used.")
    temperature: _Temperature | None = None
    n: _One | None = None
    top_p: _One | None = None
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    response_format: ResponseFormat | None = Field(
        default=None, description="What answers may be; see docs/CONSTRAINTS.md."
    )
    logit_bias: Annotated[dict[str, object], Field(max_length=0)] | None = None

    @property
    def constraint(self) -> Value | None:
        """What answers may be; None for the server's own way."""
        return None if self.response_format is None else self.response_format.constraint

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """Body of ``POST /v1/completions``."""

    prompt: (
        str
        | _Row
        | Annotated[list[str | _Row], Field(min_length=1, max_length=limits.MOST_PROMPTS)]
    ) = Field(
        description="A text, or a row (an object of columns) where the template needs several; or "
        "a list of these, with one choice each."
    )
    best_of: _One | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    logprobs: _Zero | None = None

    @property
    def rows(self) -> list[str | _Row]:
        """The prompts."""
        return self.prompt if isinstance(self.prompt, list) else [self.prompt]


class TextPart(_Strict):
    """A part of a message; only texts are supported."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None
    refusal: None = None

    @property
    def text(self) -> str:
        """Its text; parts are joined by a newline."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatRequest(_Request):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=limits.MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: _Zero | None = None
    tools: _Nothing | None = None
    tool_choice: Literal["none"] | None = None
    store: Literal[False] | None = None
