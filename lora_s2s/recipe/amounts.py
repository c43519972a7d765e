"""Amounts as users write them. Light to import."""

from __future__ import annotations

import re

from lora_s2s.errors import UsageError


def bytes_of(text: str) -> int:
    """Parses an amount of memory such as ``8GB``, ``7.5GB`` or ``8GiB``.

    Raises:
        UsageError: it is not one.
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([MG])(i?)B", text.strip())
    if not match or not float(match[1]):
        raise UsageError(f"invalid amount of memory '{text}': expected 8GB or 8GiB, for example")
    unit, power = (1024 if match[3] else 1000), {"M": 2, "G": 3}[match[2]]
    return round(float(match[1]) * float(unit**power))
