"""Families of encoder–decoders. A new one is a file beside ``t5.py``, an entry in ``FAMILIES`` and a test parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from lora_s2s.errors import UsageError
from lora_s2s.models import t5


@dataclass(frozen=True)
class ModelFamily:
    """What the rest of the package must know of a family. The functions are documented where they are defined."""

    name: str
    model_types: tuple[str, ...]
    config_class: Any
    model_class: Any
    adaptable: str
    """Pattern of the full names of modules that an adapter may sit on; never the head."""
    patterns: frozenset[str]
    """Every pattern that ``target_groups`` can give: the only ones accepted in an adapter's config."""
    target_groups: Callable[[Any], dict[str, list[str] | str]]
    check_settings: Callable[..., None]
    may_be_absent: Callable[[str], bool]
    finish_loading: Callable[..., None]
    contents_to_write: Callable[[Mapping[str, Tensor], Any], tuple[dict[str, Tensor], dict[str, Any]]]
    set_dropout: Callable[[Any, float], None]


FAMILIES: dict[str, ModelFamily] = {
    "t5": ModelFamily(
        name="t5",
        model_types=("t5",),
        config_class=T5Config,
        model_class=T5ForConditionalGeneration,
        adaptable=t5.ADAPTABLE,
        patterns=frozenset({t5.DECODER}),
        target_groups=t5.target_groups,
        check_settings=t5.check_settings,
        may_be_absent=t5.may_be_absent,
        finish_loading=t5.finish_loading,
        contents_to_write=t5.contents_to_write,
        set_dropout=t5.set_dropout,
    ),
}


def family_of(settings: Mapping[str, Any], *, where: str | None = None) -> ModelFamily:
    """Returns the family of a model from its ``config.json``.

    Raises:
        UsageError: not an encoder–decoder, or of a family that is not known; the known ones are listed.
    """
    model_type = settings.get("model_type")
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    known = ", ".join(FAMILIES)
    hint = "choose a T5 or Flan-T5 model, or try --set model.name=demo"
    if settings.get("is_encoder_decoder") is not True:
        raise UsageError(
            f"a model of type {model_type!r} is not an encoder-decoder; known families: {known}", hint=hint, where=where
        )
    raise UsageError(f"unknown model family {model_type!r}; known families: {known}", hint=hint, where=where)
