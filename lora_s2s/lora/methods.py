"""Adapter methods, one entry each. All are PEFT's and are saved in PEFT's format.

Those that subtract their initial product from the base's weights (PiSSA, OLoRA) are saved as plain
LoRA of twice the rank on the unchanged base. The names of the methods, and why others are refused,
are in the recipe: :data:`lora_s2s.recipe.fields.METHOD_NAMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import peft

from lora_s2s.errors import UsageError
from lora_s2s.lora.targets import Targets

_MOVES = (
    "its start is taken out of the base's weights, and quantized weights cannot hold what is left"
)
_READS = "PEFT computes it from the base's weights in floating point"
_WIDENS = (
    "PEFT's quantized layers for it answer in float32, which the layers after them do not take"
)

# PEFT's names of settings → values, of as many types as PEFT has.
Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """How a recipe's settings become PEFT's.

    Attributes:
        config: PEFT's config class.
        rank, alpha, dropout, seed: its names for ``lora.r``, ``lora.alpha`` and so on; None if it
            lacks the setting.
        fixed: the settings that define the method.
        unquantized: why its base must not be quantized; None if it may be.
        moves_base: its initial product is subtracted from the base's weights.
    """

    config: type[peft.PeftConfig]
    rank: str | None = "r"
    alpha: str | None = None
    dropout: str | None = None
    seed: str | None = None
    fixed: Values = field(default_factory=dict)
    unquantized: str | None = None
    moves_base: bool = False

    def has(self, key: str) -> bool:
        """Whether PEFT's config of this method has such a setting."""
        return key in self.config.__dataclass_fields__

    def build(self, targets: Targets, values: Values) -> peft.PeftConfig:
        """Returns PEFT's config for the targets, from checked values under PEFT's names.

        Raises:
            UsageError: PEFT refuses the combination.
        """
        try:
            return self.config(
                **{"target_modules": targets.spec, "task_type": "SEQ_2_SEQ_LM", **values}
            )
        except ValueError as error:
            raise UsageError(f"PEFT refuses these settings: {error}") from error


_LORA = Method(peft.LoraConfig, alpha="lora_alpha", dropout="lora_dropout")
_MOVING = replace(_LORA, moves_base=True, unquantized=_MOVES)
METHODS: dict[str, Method] = {
    "lora": _LORA,
    "rslora": replace(_LORA, fixed={"use_rslora": True}),
    "dora": replace(_LORA, fixed={"use_dora": True}),
    # The fast decomposition: the exact one takes minutes for a large matrix, and both are only a
    # starting point.
    "pissa": replace(_MOVING, fixed={"init_lora_weights": "pissa_niter_16"}),
    "olora": replace(_MOVING, fixed={"init_lora_weights": "olora"}),
    "ia3": Method(peft.IA3Config, rank=None, unquantized=_WIDENS),
    "vera": Method(peft.VeraConfig, dropout="vera_dropout", seed="projection_prng_key"),
    "hira": Method(peft.HiraConfig, dropout="hira_dropout"),
    "miss": Method(peft.MissConfig, dropout="miss_dropout"),
    "oft": Method(peft.OFTConfig, rank="oft_block_size"),
    "loha": Method(peft.LoHaConfig, alpha="alpha", unquantized=_READS),
    "lokr": Method(peft.LoKrConfig, alpha="alpha", unquantized=_READS),
}
