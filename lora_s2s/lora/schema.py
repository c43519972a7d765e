"""What an ``adapter_config.json`` may say: a method of ours on known modules, every other switch of PEFT's off.

PEFT itself takes regular expressions, ranks of a billion and weights for the base from this file; here nothing of it is
used before it is checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_s2s.errors import DataError
from lora_s2s.lora.inject import LARGEST_RANK
from lora_s2s.lora.methods import METHODS, Method
from lora_s2s.lora.targets import MOST_RANKS
from lora_s2s.lora.token_rows import KEY, MOST_TOKENS, config_ids
from lora_s2s.models.family import FAMILIES
from lora_s2s.models.t5 import TOKEN_MATRICES

_NAME = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,15}")
_MOST_NAMES = 10_000
# Each type of PEFT's that our methods use, by its name in the file.
_TYPES = {row.config().peft_type.value: row for row in reversed(METHODS.values())}
# Read apart from the rest, or without effect on what the adapter computes.
_READ = frozenset(
    {"target_modules", "base_model_name_or_path", "revision", "peft_type", "task_type", "inference_mode",
     "peft_version", "init_lora_weights", "init_ia3_weights", "init_weights"}
)  # fmt: skip
# Other starts (pissa, olora, corda, …) change the base's weights when they are loaded, or what is computed (miss: bat).
_PLAIN_STARTS = {"init_lora_weights": ("gaussian", "orthogonal")}

# What may differ from PEFT's default, whatever the method: least, most, whether whole.
_RANK, _SCALE, _SHARE = (1, LARGEST_RANK, True), (0, 1e6, False), (0, 0.999, False)
_NUMBERS: dict[str, tuple[float, float, bool]] = {
    "r": _RANK, "lora_alpha": _SCALE, "alpha": _SCALE, "d_initial": _SCALE, "lora_dropout": _SHARE,
    "vera_dropout": _SHARE, "hira_dropout": _SHARE, "miss_dropout": _SHARE, "module_dropout": _SHARE,
    "rank_dropout": _SHARE, "projection_prng_key": (0, 2**63 - 1, True), "oft_block_size": (0, LARGEST_RANK, True),
    "num_cayley_neumann_terms": (1, 64, True), "decompose_factor": (-1, 65_536, True),
}  # fmt: skip
_FLAGS = frozenset({"use_rslora", "use_dora", "save_projection", "use_cayley_neumann", "block_share", "decompose_both"})
_PATTERNS = {"rank_pattern": _RANK, "alpha_pattern": _SCALE}


@dataclass(frozen=True)
class AdapterSettings:
    """The checked content of an ``adapter_config.json``.

    Attributes:
        method: the first row with this type of PEFT's; what is special about the adapter is in ``values``.
        values: PEFT's names → values, where they are not PEFT's defaults.
    """

    method: Method
    values: dict[str, Any]
    target_modules: list[str] | str
    base: str | None
    revision: str | None
    train_tokens: tuple[int, ...] = ()


def adapter_settings(content: object, *, where: str) -> AdapterSettings:
    """Checks the content of an ``adapter_config.json``.

    Raises:
        DataError: a type of adapter that is not known, out of bounds, a pattern not of a known family, or a switch
            this version does not know.
    """
    if not isinstance(content, dict):
        raise DataError("the adapter's config is not an object", where=where)
    row = _TYPES.get(content["peft_type"]) if isinstance(content.get("peft_type"), str) else None
    if row is None:
        known = ", ".join(sorted(_TYPES))
        raise DataError(f"an adapter of type {content.get('peft_type')!r}; expected one of {known}", where=where)
    check = _Checker(content, where)
    values = check.values(row)
    return AdapterSettings(
        method=row,
        train_tokens=values.pop(KEY, ()),
        values=values,
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

    def values(self, row: Method) -> dict[str, Any]:
        """Returns what differs from PEFT's defaults, each value checked; refuses every switch that is not known."""
        if self.content.get("task_type") not in (None, "SEQ_2_SEQ_LM"):
            raise self.refuse("task_type", "SEQ_2_SEQ_LM")
        idle, found = row.config().to_dict(), {}
        for key, value in self.content.items():
            default = idle.get(key)
            if key.startswith("init_") and not (isinstance(value, bool) or value in _PLAIN_STARTS.get(key, ())):
                raise self.refuse(key, "a start that leaves the base as it is")
            nothing = value in (None, False, {}, []) and not default and key != "feedforward_modules"
            if key not in _READ and value != default and not nothing:
                found[key] = self.value(key) if row.has(key) else self.unknown(key)
        return found

    def value(self, key: str) -> Any:
        """Returns the checked value of a setting that may differ."""
        value = self.content[key]
        if key in _NUMBERS:
            return self.number(key, value, *_NUMBERS[key])
        if key in _FLAGS and isinstance(value, bool):
            return value
        if key == KEY:
            return self.tokens()
        if key == "feedforward_modules":
            return self.names(key, least=0)
        if key in _PATTERNS and isinstance(value, dict) and len(value) <= MOST_RANKS:
            # PEFT takes these names for patterns too.
            if not all(_NAME.fullmatch(name) for name in value):
                raise self.refuse(key, "plain module names")
            return {name: self.number(key, entry, *_PATTERNS[key]) for name, entry in value.items()}
        return self.unknown(key)

    def tokens(self) -> tuple[int, ...]:
        """Returns the ids of the tokens that train; only the form that this package writes."""
        value = self.content[KEY]
        ids: Any = value.get(TOKEN_MATRICES[0]) if isinstance(value, dict) else None
        plain = isinstance(ids, list) and all(type(token) is int and 0 <= token < 2**31 for token in ids)
        if not plain or not 1 <= len(ids) <= MOST_TOKENS or sorted({*ids}) != ids or value != config_ids(ids):
            names = ", ".join(TOKEN_MATRICES)
            raise self.refuse(KEY, f"the same 1 to {MOST_TOKENS} ascending ids for {names}, the last one's last twice")
        return tuple(ids)

    def unknown(self, key: str) -> Any:
        """Refuses a setting."""
        raise self.refuse(key, "nothing: this version does not know it")

    def number(self, key: str, value: object, low: float, high: float, whole: bool) -> float:
        kinds = int if whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            raise self.refuse(key, f"a {'whole ' if whole else ''}number from {low} to {high:g}")
        return value

    def text(self, key: str) -> str | None:
        value = self.content.get(key)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= 1000 and value.isprintable()):
            raise self.refuse(key, "a short text")
        return value

    def names(self, key: str, least: int = 1) -> list[str]:
        value = self.content.get(key)
        if not isinstance(value, list) or not least <= len(value) <= _MOST_NAMES:
            raise self.refuse(key, "a list of module names")
        if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in value):
            raise self.refuse(key, "plain module names")
        return value

    def targets(self) -> list[str] | str:
        value = self.content.get("target_modules")
        # A pattern is run against every module name: only those we write ourselves.
        if isinstance(value, str) and any(value in family.stacks for family in FAMILIES.values()):
            return value
        return self.names("target_modules")
