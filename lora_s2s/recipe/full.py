"""What full fine-tuning excludes."""

from __future__ import annotations

from collections.abc import Sequence

from lora_s2s.recipe.fields import AUTO, FULL


def full_problem(method: str, freeze: Sequence[str], quantization: str, dtype: str) -> str | None:
    """Returns what does not go together with ``lora.method``, beginning with a key; None if all
    does.
    """
    if method != FULL:
        return f"training.freeze needs lora.method={FULL}" if freeze else None
    if quantization != "none":
        return (
            f"lora.method={FULL} trains the base's weights, which {quantization} cannot hold: set "
            "model.quantization=none, or lora.method=lora"
        )
    if dtype not in (AUTO, "float32"):
        return (
            f"lora.method={FULL} needs float32 weights: updates are smaller than the steps of "
            f"{dtype}: set model.dtype=float32"
        )
    return None
