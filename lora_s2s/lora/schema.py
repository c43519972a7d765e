"""What an ``adapter_config.json`` may contain: a supported method on known modules, every other
option of PEFT off.

PEFT itself takes regular expressions, ranks of a billion and weights for the base from this file;
here nothing of it is used unchecked. A pattern is never evaluated: what it selects is read from the
weights, see ``foreign.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.lora.methods import METHODS, Method, Values
from lora_s2s.lora.token_rows import KEY, MOST_TOKENS, config_ids
from lora_s2s.models.family import FAMILIES
from lora_s2s.models.t5 import TOKEN_MATRICES

MERGE_IN_PEFT = (
    "merge it in PEFT and use the whole model: PeftModel.from_pretrained(base, "
    "FOLDER).merge_and_unload().save_pretrained(OUT)"
)
NAME = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,15}")
# PEFT's adapter types that our methods use, by their name in the file.
_TYPES = {method.config().peft_type.value: method for method in reversed(METHODS.values())}
# Read separately, or without effect on what the adapter computes.
_READ = frozenset(
    """
    target_modules base_model_name_or_path revision peft_type task_type inference_mode
    peft_version init_lora_weights init_ia3_weights init_weights auto_mapping
""".split()
)
# Read with target_modules, if the method has them.
_SELECTION = ("exclude_modules", "layers_to_transform", "layers_pattern")
# Other tasks have a head of their own (SEQ_CLS) and write no text.
_TASKS = (None, "SEQ_2_SEQ_LM", "CAUSAL_LM", "FEATURE_EXTRACTION")
_BIASES = ("none", "all", "lora_only", "vera_only", "oft_only", "MiSS_only")
_PROMPTS = """
    PROMPT_TUNING MULTITASK_PROMPT_TUNING P_TUNING PREFIX_TUNING ADAPTION_PROMPT CPT CARTRIDGE
""".split()
_MOST_LAYERS = 65_536
# Other initialisations (pissa, olora, corda, …) change the base's weights on loading, or what is
# computed (miss: bat).
_PLAIN_STARTS = {"init_lora_weights": ("gaussian", "orthogonal")}

# What may differ from PEFT's default, for every method: lowest, highest, whether an integer.
_RANK, _SCALE, _SHARE = (1, limits.LARGEST_RANK, True), (0, 1e6, False), (0, 0.999, False)
_NUMBERS: dict[str, tuple[float, float, bool]] = {
    "r": _RANK,
    "lora_alpha": _SCALE,
    "alpha": _SCALE,
    "d_initial": _SCALE,
    "lora_dropout": _SHARE,
    "vera_dropout": _SHARE,
    "hira_dropout": _SHARE,
    "miss_dropout": _SHARE,
    "module_dropout": _SHARE,
    "rank_dropout": _SHARE,
    "projection_prng_key": (0, 2**63 - 1, True),
    "oft_block_size": (0, limits.LARGEST_RANK, True),
    "num_cayley_neumann_terms": (1, 64, True),
    "decompose_factor": (-1, 65_536, True),
}
_FLAGS = frozenset(
    {
        "use_rslora",
        "use_dora",
        "save_projection",
        "use_cayley_neumann",
        "block_share",
        "decompose_both",
    }
)
_PATTERNS = {"rank_pattern": _RANK, "alpha_pattern": _SCALE}


@dataclass(frozen=True)
class AdapterSettings:
    """The checked content of an ``adapter_config.json``.

    Attributes:
        method: the first entry of ``METHODS`` with this type of PEFT's; ``values`` hold the rest.
        values: PEFT's names → values, if they are not PEFT's defaults.
        target_modules: names, or one of a family's own patterns; None if another pattern selects
            them, which is not run: the modules are those that the weights name.
        excluded, layers, layer_names: PEFT's ``exclude_modules``, ``layers_to_transform`` and
            ``layers_pattern``.
        patterns: ``rank_pattern`` and ``alpha_pattern``, if a key of them is a pattern.
        bias: PEFT's ``bias``; with anything but ``none`` the adapter holds the base's biases, if
            it has any.
    """

    method: Method
    values: Values
    target_modules: list[str] | str | None
    base: str | None
    revision: str | None
    train_tokens: tuple[int, ...] = ()
    excluded: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    layer_names: tuple[str, ...] = ()
    patterns: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bias: str = "none"


def adapter_settings(content: object, *, where: str) -> AdapterSettings:
    """Checks the content of an ``adapter_config.json``.

    Raises:
        DataError: an unknown type of adapter, a value out of bounds, or an unknown option.
    """
    if not isinstance(content, dict):
        raise DataError("the adapter's config is not an object", where=where)
    method = _TYPES.get(content["peft_type"]) if isinstance(content.get("peft_type"), str) else None
    if method is None:
        types, kind = ", ".join(sorted(_TYPES)), content.get("peft_type")
        prompt = (
            "it cannot be merged either: train an adapter of one of these types on the same data"
        )
        hint = prompt if str(kind) in _PROMPTS else MERGE_IN_PEFT if isinstance(kind, str) else None
        raise DataError(
            f"an adapter of type {kind!r:.100}; expected one of {types}", hint=hint, where=where
        )
    check = _Checker(content, where)
    values = dict(check.values(method))
    return AdapterSettings(
        method=method,
        train_tokens=values.pop(KEY, ()),
        patterns={key: values.pop(key) for key in _PATTERNS if check.has_patterns(key)},
        bias=values.pop("bias", "none"),
        values=values,
        base=check.text("base_model_name_or_path"),
        revision=check.text("revision"),
        **check.selection(method),
    )


class _Checker:
    def __init__(self, content: Values, where: str) -> None:
        self.content = content
        self.where = where

    def refuse(self, key: str, expected: str, *, hint: str | None = None) -> DataError:
        value = repr(self.content.get(key))
        text = value if len(value) <= 100 else f"{value[:100]}…"
        return DataError(
            f"the adapter's {key} is {text}; expected {expected}", hint=hint, where=self.where
        )

    def values(self, method: Method) -> Values:
        """Returns what differs from PEFT's defaults, checked; refuses unknown options."""
        if self.content.get("task_type") not in _TASKS:
            raise self.refuse(
                "task_type", "SEQ_2_SEQ_LM", hint="this package runs models that write text"
            )
        defaults, changed = method.config().to_dict(), {}
        for key, value in self.content.items():
            default = defaults.get(key)
            if key.startswith("init_") and not (
                isinstance(value, bool) or value in _PLAIN_STARTS.get(key, ())
            ):
                raise self.refuse(key, "a start that leaves the base as it is", hint=MERGE_IN_PEFT)
            nothing = (
                value in (None, False, {}, []) and not default and key != "feedforward_modules"
            )
            read = key in _READ or (key in _SELECTION and method.has(key))
            if not read and value != default and not nothing:
                changed[key] = self.value(key) if method.has(key) else self.unknown(key)
        return changed

    def value(self, key: str) -> object:
        """Returns the checked value of a setting that may differ."""
        value = self.content[key]
        if key in _NUMBERS:
            return self.number(key, value, *_NUMBERS[key])
        if key in _FLAGS and isinstance(value, bool):
            return value
        if key == KEY:
            return self.tokens()
        if key == "bias" and value in _BIASES:
            return value
        if key == "feedforward_modules":
            return value if isinstance(value, str) else self.names(key, least=0)
        if key in _PATTERNS and isinstance(value, dict) and len(value) <= limits.MOST_RANKS:
            return {name: self.number(key, entry, *_PATTERNS[key]) for name, entry in value.items()}
        return self.unknown(key)

    def has_patterns(self, key: str) -> bool:
        """Whether a key of a setting by module is no plain name; to PEFT every key is a pattern."""
        value = self.content.get(key)
        return isinstance(value, dict) and not all(NAME.fullmatch(name) for name in value)

    def tokens(self) -> tuple[int, ...]:
        """Returns the ids of the tokens that train; only the form that this package writes."""
        value = self.content[KEY]
        ids = value.get(TOKEN_MATRICES[0]) if isinstance(value, dict) else None
        if (
            not isinstance(ids, list)
            or not all(type(token) is int and 0 <= token < 2**31 for token in ids)
            or not 1 <= len(ids) <= MOST_TOKENS
            or sorted({*ids}) != ids
            or value != config_ids(ids)
        ):
            names = ", ".join(TOKEN_MATRICES)
            expected = (
                f"the same 1 to {MOST_TOKENS} ascending ids for {names}, the last one's last twice"
            )
            raise self.refuse(KEY, expected, hint=MERGE_IN_PEFT)
        return tuple(ids)

    def unknown(self, key: str) -> NoReturn:
        """Refuses a setting."""
        raise self.refuse(key, "nothing: this version does not know it", hint=MERGE_IN_PEFT)

    def number(self, key: str, value: object, low: float, high: float, whole: bool) -> float:
        kinds = int if whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            raise self.refuse(key, f"a {'whole ' if whole else ''}number from {low} to {high:g}")
        return value

    def text(self, key: str) -> str | None:
        value = self.content.get(key)
        if value is not None and not (
            isinstance(value, str) and 0 < len(value) <= 1000 and value.isprintable()
        ):
            raise self.refuse(key, "a short text")
        return value

    def names(self, key: str, least: int = 1) -> list[str]:
        value = self.content.get(key)
        if not isinstance(value, list) or not least <= len(value) <= limits.MOST_ADAPTER_NAMES:
            raise self.refuse(key, "a list of module names")
        if not all(isinstance(name, str) and NAME.fullmatch(name) for name in value):
            raise self.refuse(key, "plain module names")
        return value

    def selection(self, method: Method) -> Values:
        """Returns the targeted modules; ``target_modules`` is None if a pattern selects them."""
        targets = self.content.get("target_modules")
        excluded, layers, stems = (
            self.content.get(key) if method.has(key) else None for key in _SELECTION
        )
        indices = layers if isinstance(layers, list) else [] if layers is None else [layers]
        if not all(type(index) is int and 0 <= index < _MOST_LAYERS for index in indices):
            raise self.refuse("layers_to_transform", "indices of layers")
        for key, value in (("exclude_modules", excluded), ("layers_pattern", stems)):
            if not (value is None or isinstance(value, str) or _are_texts(value)):
                raise self.refuse(key, "names, or a pattern")
        # A family's pattern is one that this package writes.
        ours = isinstance(targets, str) and any(
            targets in family.stacks for family in FAMILIES.values()
        )
        names = (
            self.names("target_modules") if isinstance(targets, list) else targets if ours else None
        )
        stems = [stems] if isinstance(stems, str) else stems or []
        plain = not isinstance(excluded, str) and all(
            NAME.fullmatch(name) for name in excluded or ()
        )
        # To PEFT a dot in the name of a layer is any character.
        if (
            names is None
            or not plain
            or not all(NAME.fullmatch(stem) and "." not in stem for stem in stems)
        ):
            if targets is not None and not isinstance(targets, (str, list)):
                raise self.refuse("target_modules", "names, or a pattern")
            return {"target_modules": None}
        chosen = {
            "excluded": tuple(excluded or ()),
            "layers": tuple(indices),
            "layer_names": tuple(stems),
        }
        return {"target_modules": names, **chosen}


def _are_texts(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= limits.MOST_ADAPTER_NAMES
        and all(isinstance(text, str) for text in value)
    )
