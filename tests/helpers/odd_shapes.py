"""JSON of another shape: every place of a document in turn holds what nobody expects there, or
nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

ODD = (None, -1.5, "x", [1], {"a": [None]}, 10**299)
_ABSENT = object()


def spoilt(document: Any, odd: tuple[Any, ...] = ODD) -> Iterator[tuple[str, Any]]:
    """Yields (what was done, the document spoilt at one place); of a list its first two items."""
    for place in _places(document):
        for value in (*odd, _ABSENT) if place else odd:
            changed = _put(document, place, value)
            yield (
                f"{'.'.join(map(str, place))} = "
                f"{'nothing' if value is _ABSENT else repr(value)[:20]}",
                changed,
            )


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    keys = (
        list(value)
        if isinstance(value, dict)
        else range(min(2, len(value)))
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield from _places(value[key], (*place, key))


def _put(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if value is _ABSENT:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed
