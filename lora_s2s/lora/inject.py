"""Puts an adapter on a base. With every method the outputs are unchanged before training, and only
the adapter trains.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lora_s2s import limits
from lora_s2s.console import say
from lora_s2s.errors import UsageError
from lora_s2s.lora import token_rows
from lora_s2s.lora.methods import METHODS, Method
from lora_s2s.lora.targets import Targets, resolve_ranks, resolve_targets
from lora_s2s.models import float16
from lora_s2s.models.loading import LoadedBase
from lora_s2s.models.quantized import elements
from lora_s2s.recipe.fields import method_problem, ranks_by_name
from lora_s2s.recipe.schema import LoraSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

START = "start_of_adapter"
"""Attribute of a model whose method changed the base's weights: the adapter's first weights."""


def inject_lora(
    base: LoadedBase, lora: LoraSection, *, train_tokens: Sequence[int] = (), seed: int
) -> PeftModel:
    """Wraps the base's modules in place and returns the adapted model, in evaluation mode.

    Only the adapter trains. Its weights are float32 whatever the base's dtype, and depend only on
    ``seed`` and the base. Each module's scale is alpha over its own rank (over its square root for
    rslora).

    Args:
        lora: a recipe's section; for its modules see
            :func:`lora_s2s.lora.targets.resolve_targets`.
        train_tokens: ids whose rows in the embeddings and the head train too; see
            :mod:`lora_s2s.lora.token_rows`.
        seed: of the initial values; the global random state is not changed.

    Raises:
        UsageError: an unknown target or method, a setting that the method lacks, a rank beyond the
            layers' sizes, a quantized base that the method does not support, tokens that cannot
            train, or the base already has an adapter.
    """
    if problem := method_problem(lora.method):
        raise UsageError(f"lora.method: {problem}", hint="set lora.method=lora")
    method = METHODS[lora.method]
    targets = resolve_targets(base, lora.target_modules, last_blocks=lora.last_blocks)
    check_base(method, lora.method, base)
    if problem := token_rows.problem(
        base, train_tokens, method_holds_them=method.has(token_rows.KEY)
    ):
        raise UsageError(
            problem, hint="set data.lossless_text=off; where tokens are named, lora.train_tokens=[]"
        )
    ranks = resolve_ranks(base, targets, ranks_by_name(lora.rank_pattern), lora.r)
    _check_settings(method, lora, targets, [lora.r, *ranks.values()])
    given = {
        method.rank: lora.r,
        method.alpha: lora.alpha,
        method.dropout: lora.dropout,
        method.seed: seed,
        "rank_pattern" if ranks else None: ranks,
    }
    values = {**method.fixed, **{key: value for key, value in given.items() if key is not None}}
    if method.has("feedforward_modules"):
        # IA3 scales a layer's output, or its input if that is wider (wo).
        narrow = [name for name, (outputs, inputs) in targets.shapes.items() if inputs > outputs]
        values.update(target_modules=list(targets.shapes), feedforward_modules=narrow)
    model = wrap(base, method.build(targets, values), seed=seed).eval()
    if method.moves_base:
        # The method subtracted these from the base; save_adapter accounts for them.
        start = get_peft_model_state_dict(model, save_embedding_layers=False)
        setattr(model, START, {name: tensor.to("cpu", copy=True) for name, tensor in start.items()})
    token_rows.add(base.model, sorted({*train_tokens}))
    return model


def wrap(base: LoadedBase, config: PeftConfig, *, seed: int = 0, empty: bool = False) -> PeftModel:
    """Wraps the modules that a checked config names.

    Args:
        empty: creates the adapter on the meta device: names and shapes only.

    Raises:
        UsageError: the base already has an adapter, or PEFT refuses the config on this base.
    """
    if any(isinstance(module, BaseTunerLayer) for module in base.model.modules()):
        raise UsageError("this base already has an adapter", hint="load the base again")
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # PEFT warns if the config's base name differs from the model's folder; it is set below.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            model: PreTrainedModel = get_peft_model(base.model, config, low_cpu_mem_usage=empty)
        except (ValueError, TypeError) as error:
            raise UsageError(f"PEFT refuses these settings on {base.name}: {error}") from error
    config.base_model_name_or_path = base.name
    config.revision = base.revision
    if base.residual_shift:
        # Scaled inputs must reach the adapter too: the hooks move to the wrapping modules.
        float16.reinstall(base.model, base.family, base.residual_shift)
    return model


def check_base(method: Method, name: str, base: LoadedBase) -> None:
    """Checks that a method supports the base's quantization.

    Raises:
        UsageError: it needs a base that is not quantized.
    """
    if method.unquantized and base.quantization != "none":
        able = ", ".join(key for key, other in METHODS.items() if not other.unquantized)
        raise UsageError(
            f"{name} does not work on a base in {base.quantization}: {method.unquantized}",
            hint=f"set model.quantization=none, or a method that does: {able}",
        )


def _check_settings(
    method: Method, lora: LoraSection, targets: Targets, ranks: Sequence[int]
) -> None:
    """Reports or refuses settings that a method lacks, and checks ranks before anything of that
    size is allocated.
    """
    if idle := [
        key for key, own in (("lora.r", method.rank), ("lora.alpha", method.alpha)) if own is None
    ]:
        say(f"{lora.method} ignores {' and '.join(idle)}")
    if lora.rank_pattern and not method.has("rank_pattern"):
        able = ", ".join(key for key, other in METHODS.items() if other.has("rank_pattern"))
        raise UsageError(
            f"{lora.method} has no rank for each group",
            hint=f"remove lora.rank_pattern, or use one of {able}",
        )
    if lora.dropout and method.dropout is None:
        raise UsageError(f"{lora.method} has no dropout of its own", hint="set lora.dropout=0")
    # VeRA's matrices are shared and frozen: their rank is bounded by no layer.
    most = (
        limits.LARGEST_RANK
        if method.seed
        else min(limits.LARGEST_RANK, max(min(shape) for shape in targets.shapes.values()))
    )
    wrong = [rank for rank in ranks if not 1 <= rank <= most]
    if wrong and method.rank:
        raise UsageError(
            f"lora.{'r' if wrong[0] == lora.r else 'rank_pattern'} is {wrong[0]}; on this base "
            f"it may be 1 to {most}",
            hint="16 is a good start",
        )


def is_second_factor(name: str) -> bool:
    """Whether a parameter is the B of B A, which LoRA+ trains faster."""
    return ".lora_B." in name


def trainable_parameters(model: nn.Module) -> int:
    """Returns the number of weights that train."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def total_parameters(model: nn.Module) -> int:
    """Returns the number of weights, with the adapter's; a tied matrix counts once, packed weights
    by their real number.
    """
    return sum(map(elements, model.parameters()))
