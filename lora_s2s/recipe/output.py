"""The recipe's section ``output``: where the adapter goes."""

from __future__ import annotations

from pydantic import Field

from lora_s2s.recipe.fields import Section


class OutputSection(Section):
    """The adapter's folder."""

    dir: str = Field(
        default="adapters",
        min_length=1,
        description="Folder for adapters, relative to the current one.",
    )
    name: str | None = Field(
        default=None,
        pattern=r"^[\p{L}\p{Nd}][\p{L}\p{M}\p{Nd}._-]{0,99}$",
        description="Name of the adapter's folder; by default the recipe's name.",
    )
