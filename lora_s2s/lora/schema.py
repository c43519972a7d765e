"""What an ``adapter_config.json`` may say: plain LoRA on known modules, every other switch of PEFT's off.

PEFT itself takes regular expressions, ranks of a billion and weights for the base from this file; here nothing of it is
used before it is checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig

from lora_s2s.errors import DataError
from lora_s2s.lora.inject import LARGEST_RANK
from lora_s2s.models.family import FAMILIES

_NAME = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,15}")
_MOST_NAMES = 10_000
# Read below, or without effect on what the adapter computes.
_READ = frozenset(
    {"r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "base_model_name_or_path", "revision",
     "peft_type", "task_type", "inference_mode", "init_lora_weights", "peft_version"}
)  # fmt: skip
# Other starts (pissa, olora, corda, …) change the base's weights when they are loaded.
_PLAIN_STARTS = ("gaussian", "orthogonal")


@dataclass(frozen=True)
class AdapterSettings:
    """The checked content of an ``adapter_config.json``."""

    r: int
    alpha: float
    dropout: float
    rslora: bool
    target_modules: list[str] | str
    base: str | None
    revision: str | None

    @property
    def scaling(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


def adapter_settings(content: object, *, where: str) -> AdapterSettings:
    """Checks the content of an ``adapter_config.json``.

    Raises:
        DataError: not LoRA, out of bounds, a pattern not of a known family, or a switch this version does not know.
    """
    if not isinstance(content, dict):
        raise DataError("the adapter's config is not an object", where=where)
    if content.get("peft_type") != "LORA":
        raise DataError(f"an adapter of type {content.get('peft_type')!r}; expected LORA", where=where)
    check = _Checker(content, where)
    check.switches()
    return AdapterSettings(
        r=int(check.number("r", 1, LARGEST_RANK, whole=True)),
        alpha=check.number("lora_alpha", 0, 1e6),
        dropout=check.number("lora_dropout", 0, 0.999, default=0.0),
        rslora=check.flag("use_rslora"),
        target_modules=check.targets(),
        base=check.text("base_model_name_or_path"),
        revision=check.text("revision"),
    )


class _Checker:
    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.content = content
        self.where = where

    def refuse(self, key: str, expected: str) -> DataError:
        value = repr(self.content.get(key))
        shown = value if len(value) <= 100 else f"{value[:100]}…"
        return DataError(f"the adapter's {key} is {shown}; expected {expected}", where=self.where)

    def switches(self) -> None:
        """Refuses every setting that is neither read nor at its idle value."""
        idle = LoraConfig().to_dict()
        for key, value in self.content.items():
            if key not in _READ and value not in (None, False, {}, [], idle.get(key)):
                raise self.refuse(key, "nothing: this version knows plain LoRA only")
        if self.content.get("task_type") not in (None, "SEQ_2_SEQ_LM"):
            raise self.refuse("task_type", "SEQ_2_SEQ_LM")
        start = self.content.get("init_lora_weights", True)
        if not isinstance(start, bool) and start not in _PLAIN_STARTS:
            raise self.refuse("init_lora_weights", "a start that leaves the base as it is")

    def number(self, key: str, low: float, high: float, *, whole: bool = False, default: float | None = None) -> float:
        value = self.content.get(key, default)
        kinds = int if whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            raise self.refuse(key, f"a {'whole ' if whole else ''}number from {low} to {high:g}")
        return value

    def flag(self, key: str) -> bool:
        value = self.content.get(key, False)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def text(self, key: str) -> str | None:
        value = self.content.get(key)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= 1000 and value.isprintable()):
            raise self.refuse(key, "a short text")
        return value

    def targets(self) -> list[str] | str:
        value = self.content.get("target_modules")
        if isinstance(value, str):
            # A pattern is run against every module name: only those we write ourselves.
            if not any(value in family.patterns for family in FAMILIES.values()):
                raise self.refuse("target_modules", "a list of module names")
            return value
        if not isinstance(value, list) or not 0 < len(value) <= _MOST_NAMES:
            raise self.refuse("target_modules", "a list of module names")
        if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in value):
            raise self.refuse("target_modules", "plain module names")
        return value
