"""Amounts as users write them. Light to import."""

from __future__ import annotations

import re

from lora_s2s.errors import UsageError


def bytes_of(text: str, option: str, *, plain: bool = False) -> int:
    """Parses the amount of memory that an option names, such as ``8GB``, ``7.5GB`` or ``8GiB``.

    Args:
        plain: whether a number without a unit is one of bytes.

    Raises:
        UsageError: it is not one.
    """
    pattern = r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?([KMG])(i?)B"
    given = text.strip()
    if plain and re.fullmatch(r"[1-9][0-9]{0,15}", given):
        return int(given)
    match = re.fullmatch(pattern, given, flags=re.IGNORECASE)
    if not match or not float(match[1]):
        problem = f"{option} is {text!r}, expected an amount such as 8GB or 8GiB"
        raise UsageError(problem, hint=f"{option} 8GB")
    unit, power = (1024 if match[3] else 1000), " KMG".index(match[2].upper())
    return round(float(match[1]) * float(unit**power))
