"""What divided weights exclude."""

from __future__ import annotations

from lora_s2s.recipe.fields import FULL

_KEY = "training.sharding=full"


def sharding_problem(method: str, quantization: str, optimizer: str, scored: int) -> str | None:
    """Returns what does not go together with ``training.sharding=full``, beginning with a key; None
    if all does.

    Args:
        scored: how many sources are answered at each validation.
    """
    if quantization != "none":
        return (
            f"{_KEY} divides weights of 16 or 32 bits, not {quantization}, whose scales would be "
            "lost: set model.quantization=none, or training.sharding=none"
        )
    if method == FULL and optimizer != "adamw":
        return (
            f"{_KEY} with lora.method={FULL} divides the state of adamw, not that of {optimizer}: "
            "set training.optimizer=adamw"
        )
    if scored:
        return (
            f"{_KEY}: answers need whole weights while training: set training.scored_sources=0 and "
            "training.best_metric=loss"
        )
    return None
