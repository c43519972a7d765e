"""Families of encoder–decoders. A new one is an entry in ``FAMILIES`` and a tiny model in the
tests, and a file beside ``t5.py`` only if ``bart.py`` does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

import transformers
from torch import Tensor

from lora_s2s.errors import UsageError
from lora_s2s.models import bart, common, t5, t5gemma


@dataclass(frozen=True)
class ModelFamily:
    """What the rest of the package needs to know about a family. The functions are documented where
    they are defined.
    """

    name: str
    title: str
    """The models it covers, for people."""
    class_names: tuple[str, str]
    """The names of its config's and its model's class in transformers, looked up on first use:
    importing all of them would take seconds.
    """
    adaptable: str
    """Pattern of the full names of modules that may take an adapter; never the head."""
    stacks: tuple[str, str]
    """Patterns of the encoder's and the decoder's modules: the only ones that ``target_groups``
    returns and an adapter's config may hold.
    """
    target_groups: Callable[[transformers.PreTrainedConfig], dict[str, list[str] | str]]
    check_settings: Callable[..., None]
    may_be_absent: Callable[[str], bool]
    finish_loading: Callable[..., None]
    contents_to_write: Callable[
        [Mapping[str, Tensor], transformers.PreTrainedConfig],
        tuple[dict[str, Tensor], dict[str, object]],
    ]
    max_positions: Callable[[transformers.PreTrainedConfig], int | None]
    t5_shaped: bool
    """Whether the residual stream may be rescaled as T5's: bare RMSNorms, no biases."""
    plain_head: bool
    """Whether the logits are the head's output as it is, without a bias or a soft cap."""
    set_dropout: Callable[[transformers.PreTrainedModel, float], None] = common.set_dropout

    @property
    def config_class(self) -> type[transformers.PreTrainedConfig]:
        """The config's class in transformers."""
        config: type[transformers.PreTrainedConfig] = getattr(transformers, self.class_names[0])
        return config

    @property
    def model_class(self) -> type[transformers.PreTrainedModel]:
        """The model's class in transformers."""
        model: type[transformers.PreTrainedModel] = getattr(transformers, self.class_names[1])
        return model


def _family(
    name: str, title: str, facts: ModuleType, stem: str, model: str = "ForConditionalGeneration"
) -> ModelFamily:
    classes = (f"{stem}Config", f"{stem}{model}")
    fields = (
        "target_groups",
        "check_settings",
        "may_be_absent",
        "finish_loading",
        "contents_to_write",
        "max_positions",
    )
    functions = {field: getattr(facts, field) for field in fields}
    return ModelFamily(
        name,
        title,
        classes,
        facts.ADAPTABLE,
        facts.STACKS,
        t5_shaped=facts is t5,
        plain_head=facts is t5,
        **functions,
    )


FAMILIES: dict[str, ModelFamily] = {
    family.name: family
    for family in (
        _family(
            "t5", "T5 v1.0, v1.1, LM-adapted, Flan-T5, ByT5, CodeT5, CodeT5+ (220M, 770M)", t5, "T5"
        ),
        _family("mt5", "mT5", t5, "MT5"),
        _family("umt5", "UMT5", t5, "UMT5"),
        _family("longt5", "LongT5, local and transient-global", t5, "LongT5"),
        _family("bart", "BART", bart, "Bart"),
        _family("mbart", "mBART, mBART-50", bart, "MBart"),
        _family("m2m_100", "M2M100, NLLB-200 (dense)", bart, "M2M100"),
        _family("marian", "Marian (OPUS-MT)", bart, "Marian", "MTModel"),
        _family("pegasus", "Pegasus", bart, "Pegasus"),
        _family("blenderbot", "Blenderbot", bart, "Blenderbot"),
        _family("t5gemma", "T5Gemma", t5gemma, "T5Gemma"),
    )
}

# Encoder–decoders that are refused, and why.
REFUSED = {
    "codet5p": "CodeT5+ from 2B on runs only on code of its own checkpoint, which is never "
    "executed here; CodeT5+ 220M and 770M are of type t5 and work",
    "t5gemma2": "T5Gemma 2 reads images: its vision tower would be loaded for nothing, and one "
    "decoder attention is self- and cross-attention at once; T5Gemma works",
    "nllb-moe": "adapters on NLLB-MoE's experts, chosen token by token, are untested; the dense "
    "NLLB-200 models work",
}


def family_of(settings: Mapping[str, object], *, where: str | None = None) -> ModelFamily:
    """Returns the family of a model from its ``config.json``.

    Raises:
        UsageError: not an encoder–decoder, or of a family that is refused or unknown; the message
            lists the known ones.
    """
    model_type = settings.get("model_type")
    model_type = model_type if isinstance(model_type, str) else str(model_type)
    if model_type in FAMILIES:
        return FAMILIES[str(model_type)]
    families = ", ".join(FAMILIES)
    hint = "choose a T5 or Flan-T5 model, or try --set model.name=demo"
    if model_type in REFUSED:
        raise UsageError(
            f"a model of type {model_type!r} is refused: {REFUSED[str(model_type)]}",
            hint=hint,
            where=where,
        )
    if settings.get("is_encoder_decoder") is not True:
        raise UsageError(
            f"a model of type {model_type!r} is not an encoder-decoder; known families: {families}",
            hint=hint,
            where=where,
        )
    raise UsageError(
        f"unknown model family {model_type!r}; known families: {families}", hint=hint, where=where
    )


def check_lengths(
    family: ModelFamily, config: transformers.PreTrainedConfig, *, name: str, **limits: int
) -> None:
    """Checks a recipe's lengths against the base's positions, before hours go into training.

    Args:
        limits: recipe key → tokens.

    Raises:
        UsageError: one exceeds the base's positions.
    """
    most = family.max_positions(config)
    for key, tokens in limits.items():
        if most is not None and tokens > most:
            raise UsageError(
                f"data.{key} is {tokens}; {name} has {most} positions",
                hint=f"--set data.{key}={most}",
            )
