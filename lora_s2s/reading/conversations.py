"""Conversations (FastChat's ``from``/``value`` turns) into pairs: every reply is a target, all before it the source.

    system: Be brief. user: Hi! assistant: Hello. user: Who are you? assistant:  →  A small model.

Decided on text, with words that any vocabulary has and no newlines: T5 would drop those. The source ends in
``assistant:`` so that what comes next is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_s2s.reading.example import Example, Rejected, Unusable, checked, reject

CONVERSATIONS = "conversations"
_ROLES = {
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "system": "system",
}  # fmt: skip
_REPLY = "assistant"
# Every reply repeats what stands before it, so the pairs of one conversation grow with its square.
_MOST_TURNS = 1000


def render_turns(turns: Sequence[tuple[str, str]]) -> str:
    """Returns the source for the reply that follows ``turns``, each a role (user, assistant, system) and a text."""
    return " ".join([*(f"{role}: {text.strip()}" for role, text in turns), f"{_REPLY}:"])


def conversation_pairs(fields: Mapping[str, Any], where: str) -> Iterator[Example | Rejected]:
    """Yields one example per assistant turn; a last user turn without a reply gives none.

    Raises:
        Unusable: the whole conversation is odd; the message says how.
    """
    turns = _turns(fields)
    if not any(role == _REPLY for role, _ in turns):
        raise Unusable("no assistant turn")
    group: str | None = None
    for index, (role, text) in enumerate(turns):
        if role == _REPLY and index:
            source = render_turns(turns[:index])
            # A conversation's first source begins all its others: it keeps them, and its twins, in one split.
            group = source if group is None else group
            yield Example(source, text, where, group=group, cut_left=True)
        elif role == _REPLY:
            yield reject(where, "a reply with nothing before it", text)


def _turns(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    raw = fields.get(CONVERSATIONS)
    if not isinstance(raw, list) or not raw:
        raise Unusable("no list of turns")
    if len(raw) > _MOST_TURNS:
        raise Unusable(f"more than {_MOST_TURNS} turns")
    turns = [_turn(turn) for turn in raw]
    system = fields.get("system")
    if isinstance(system, str) and system.strip() and turns[0][0] != "system":
        return [("system", checked(system, "the system text")), *turns]
    return turns


def _turn(turn: object) -> tuple[str, str]:
    if not isinstance(turn, Mapping) or not {"from", "value"} <= turn.keys():
        raise Unusable("a turn without 'from' and 'value'")
    name, text = turn["from"], turn["value"]
    role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise Unusable(f"an unknown role: {name!r:.60}")
    if not isinstance(text, str):
        raise Unusable("a turn that is not text")
    if not text.strip():
        raise Unusable("an empty turn")
    return role, checked(text, "a turn")
