"""Dialogues: every reply is a target, and all turns before it are the source.

    system: Be brief. user: Hi! assistant: Hello. user: Who are you? assistant:  →  A small model.

Plain words as role markers are in every vocabulary; there are no newlines, which T5 drops. The
source ends in ``assistant:``. If it is too long, the oldest turns are dropped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from lora_s2s.examples.example import Turn, Unusable, as_json, checked
from lora_s2s.examples.template import TURNS, PromptTemplate
from lora_s2s.readers.names import normalised
from lora_s2s.readers.rows import Fields

DIALOGUE_TEMPLATE = (
    "{% for turn in turns %}{{ turn.role }}: {{ turn.text | trim }} {% endfor %}assistant:"
)
_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "customer": "user",
    "client": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "agent": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
}
_REPLY, _SYSTEM = "assistant", "system"
SYSTEM_ROLES = [role for role, meant in _ROLES.items() if meant == _SYSTEM]
LISTS = ("conversations", "messages", "conversation", "dialog", "dialogue", TURNS)
_NAMES, _TEXTS, _CALLS = (
    ("from", "role", "speaker"),
    ("value", "content", "text"),
    ("tool_calls", "function_call"),
)
# Every source repeats all earlier turns, so the size of a conversation's pairs grows quadratically.
_MOST_TURNS = 1000
Turns: TypeAlias = Sequence[tuple[str, str]]


def render_turns(turns: Turns, template: str | None = None) -> str:
    """The source for the reply to ``turns``, each a role (user, assistant, …) and a text."""
    return PromptTemplate.of(template or DIALOGUE_TEMPLATE).render(
        {TURNS: tuple(Turn(*turn) for turn in turns)}
    )


def fit_turns(turns: Turns, template: str | None, fits: Callable[[str], bool]) -> str:
    """Renders the turns, dropping as few of the oldest as needed for ``fits`` to be true.

    The system text at the start is kept if at least one turn fits beside it. If not even the last
    turn fits, it is returned alone.
    """

    def text(system: Turns, first: int) -> str:
        return render_turns([*system, *turns[first:]], template)

    everything = text((), 0)
    if fits(everything):
        return everything
    start = next((place for place, (role, _) in enumerate(turns) if role != _SYSTEM), 0)
    for system in (turns[:start], ()):
        # Bisection finds the first turn to keep.
        first = (
            bisect_left(range(start, len(turns)), True, key=lambda first: fits(text(system, first)))
            + start
        )
        if first < len(turns):
            return text(system, first)
    return text((), len(turns) - 1)


def system_text(turns: Turns) -> str:
    """The text of the system turn that a dialogue begins with; empty without one."""
    role, text = turns[0]
    return text if role == _SYSTEM else ""


def looks_like_dialogue(fields: Fields, names: Sequence[str]) -> bool:
    """Whether a row has a list of turns, perhaps empty, with the role under one of ``names``."""
    for key in LISTS:
        turns = fields.get(key)
        if isinstance(turns, list):
            first = turns[0] if turns else dict.fromkeys(names if key in LISTS[:2] else ())
            if isinstance(first, Mapping) and not first.keys().isdisjoint(names):
                return True
    return False


def dialogue_questions(fields: Fields) -> Iterator[tuple[dict[str, Any], list[object]]]:
    """Yields the turns before each reply with the reply, and all turns without a reply if the last
    one is unanswered.

    Turns are empty for a greeting, a reply before the first user turn.

    Raises:
        Unusable: the conversation is malformed.
    """
    turns = _turns(fields)
    # Without user turns, the system text is the question.
    first = next(
        (index for index, turn in enumerate(turns) if turn.role not in (_REPLY, _SYSTEM)), 0
    )
    for index, turn in enumerate(turns):
        if turn.role == _REPLY:
            yield {TURNS: turns[:index] if index > first else ()}, [turn.text]
    if turns[-1].role != _REPLY:
        yield {TURNS: turns}, []


def _turns(fields: Fields) -> tuple[Turn, ...]:
    raw = next((fields[key] for key in LISTS if isinstance(fields.get(key), list)), None)
    if not raw:
        raise Unusable("no list of turns")
    if len(raw) > _MOST_TURNS:
        raise Unusable(f"more than {_MOST_TURNS} turns")
    turns = tuple(_turn(turn) for turn in raw)
    system = fields.get(_SYSTEM)
    if isinstance(system, str) and system.strip() and turns[0].role != _SYSTEM:
        return (Turn(_SYSTEM, checked(system, "the system text")), *turns)
    return turns


def _turn(turn: object) -> Turn:
    fields = turn if isinstance(turn, Mapping) else {}
    name = next((fields[key] for key in _NAMES if key in fields), None)
    text = next((fields[key] for key in _TEXTS if key in fields), None)
    if isinstance(text, list):
        text = "\n".join(map(_part, text))
    if not text and (calls := next((fields[key] for key in _CALLS if fields.get(key)), None)):
        text = _call_text(calls)
    if name is None or text is None:
        raise Unusable("a turn without a role or a text")
    role = _ROLES.get(normalised(name).replace("-", "_")) if isinstance(name, str) else None
    if role is None:
        raise Unusable(f"an unknown role: {name!r:.60}")
    if not isinstance(text, str):
        raise Unusable(f"a turn that is not text: {type(text).__name__}")
    if not text.strip():
        raise Unusable("an empty turn")
    return Turn(role, checked(text, "a turn"))


def _call_text(calls: object) -> str:
    """The tool calls of a turn without text: JSON with name and arguments, as written.

        [{"type": "function", "function": {"name": "order", "arguments": "{}"}}]  →  {"name":
        "order", "arguments": {}}

    Raises:
        Unusable: one has no name.
    """
    texts = []
    for call in calls if isinstance(calls, list) else [calls]:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise Unusable("a tool call without a name")
        arguments = inner.get("arguments", {})
        written = arguments if isinstance(arguments, str) else as_json(arguments, "a tool call")
        texts.append(
            f'{{"name": {as_json(inner["name"], "a tool call")}, "arguments": {written or "{}"}}}'
        )
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _part(part: object) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    text = part.get("text") if isinstance(part, Mapping) and kind == "text" else None
    if not isinstance(text, str):
        raise Unusable(f"a part of a turn that is not text: {kind!r:.60}")
    return text
