"""The recipe's section ``output``: where the adapter goes."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from lora_s2s.recipe.fields import Section
from lora_s2s.systems import is_plain_name


def _on_every_system(name: str | None) -> str | None:
    if name is not None and not is_plain_name(name):
        raise ValueError("expected a name that Windows can store too: no device, no dot at the end")
    return name


class OutputSection(Section):
    """The adapter's folder."""

    dir: str = Field(
        default="adapters",
        min_length=1,
        description="Folder for adapters, relative to the current one.",
    )
    name: Annotated[str | None, AfterValidator(_on_every_system)] = Field(
        default=None,
        pattern=r"^[\p{L}\p{Nd}][\p{L}\p{M}\p{Nd}._-]{0,99}$",
        description="Name of the adapter's folder; by default the recipe's name.",
    )
