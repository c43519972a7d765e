"""What a request may say, in OpenAI's shape.

A field of OpenAI's that has no effect here takes only the value that means nothing; any other
value, and any other field, is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from lora_s2s import limits
from lora_s2s.documents import Record

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
    logit_bias: Annotated[dict[str, object], Field(max_length=0)] | None = None

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


class PlainText(_Strict):
    """The only response format so far."""

    type: Literal["text"]


class ChatRequest(_Request):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=limits.MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: _Zero | None = None
    tools: _Nothing | None = None
    tool_choice: Literal["none"] | None = None
    response_format: PlainText | None = None
    store: Literal[False] | None = None
