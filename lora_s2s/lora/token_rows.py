"""Single tokens whose embedding and head rows train, while the matrices stay frozen.

A row is the base's plus scale · change, with change 0 at first. Embeddings and head of a tied model
are one matrix and share their rows. An adapter's folder holds the final value of each row, once for
every module.

K rows that train, V vocabulary, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lora_s2s.errors import DataError
from lora_s2s.models.loading import LoadedBase
from lora_s2s.models.t5 import TOKEN_MATRICES

MOST_TOKENS = 256
KEY = "trainable_token_indices"
"""PEFT's name for the ids in ``adapter_config.json``."""
# A step at rate η changes a row by about 8 η of the matrix's size.
_PACE = 8.0
_SAVED = "base_model.model.{}.token_adapter.trainable_tokens_delta"


class TokenRows(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """The trained rows of one matrix, in every module that uses it; PEFT enables and disables them
    with the adapter.

    Args:
        weight_VD: the base's matrix, which stays as it is.
        ids: ascending.
        values_KD: the initial rows, in the first K rows; None for the base's own.
    """

    adapter_layer_names = ("change",)

    def __init__(
        self, weight_VD: Tensor, ids: Sequence[int], values_KD: Tensor | None = None
    ) -> None:
        super().__init__()
        self._base = (weight_VD,)  # in a tuple it is not a parameter of this module
        self.ids_K: Tensor
        self.start_KD: Tensor
        self.register_buffer("ids_K", torch.tensor(ids, device=weight_VD.device), persistent=False)
        start_KD = weight_VD[self.ids_K] if values_KD is None else values_KD[: len(ids)]
        self.register_buffer(
            "start_KD", start_KD.detach().to(weight_VD.device, torch.float32), persistent=False
        )
        self.change = nn.ParameterDict({"default": nn.Parameter(torch.zeros_like(self.start_KD))})
        # A step of AdamW is relative to the size of the matrix, and large enough to learn a new
        # token in a few hundred steps at LoRA's rates; a power of two, so that every machine
        # computes the same.
        size = float(torch.linalg.vector_norm(weight_VD.detach(), dtype=torch.float32)) / math.sqrt(
            weight_VD.numel()
        )
        self.scale = _PACE * 2.0 ** round(math.log2(size or 1.0))

    def values(self) -> Tensor:
        """Returns the rows (K, D) in float32."""
        return torch.add(self.start_KD, self.change["default"], alpha=self.scale)

    def difference(self) -> Tensor:
        """Returns the rows (K, D) minus the base's, in float32; exactly 0 before training."""
        return self.values() - self._base[0][self.ids_K]

    def embed(self, _module: nn.Module, inputs: tuple[Tensor], states: Tensor) -> Tensor:
        """Forward hook of the embeddings: puts these rows in place of the base's."""
        if self.disable_adapters:
            return states
        ids = inputs[0].contiguous()
        place = torch.searchsorted(self.ids_K, ids).clamp_(max=len(self.ids_K) - 1)
        ours = (self.ids_K[place] == ids).unsqueeze(-1)
        # Looked up in float32, so that a row's gradients from all positions are summed in float32.
        return torch.where(ours, F.embedding(place, self.values()).to(states.dtype), states)

    def score(self, _module: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        """Forward hook of the head: adds the difference to the logits of these tokens."""
        if self.disable_adapters:
            return logits
        return logits.index_add_(
            -1, self.ids_K, F.linear(inputs[0], self.difference().to(logits.dtype))
        )

    @torch.no_grad()
    def merge(self, **_: object) -> None:
        """Writes the rows into the base's matrix."""
        self._base[0][self.ids_K] = self.values().to(self._base[0].dtype)


def problem(base: LoadedBase, ids: Sequence[int], *, method_holds_them: bool = True) -> str | None:
    """Returns why these tokens cannot train on a base; None if they can, or there are none."""
    if not ids:
        return None
    if not base.family.t5_shaped:
        return (
            f"lora.train_tokens is for T5-shaped models, and {base.name} is a {base.family.title}"
        )
    if not method_holds_them:
        methods = "lora, rslora, dora, pissa and olora"
        return (
            f"lora.train_tokens, which data.lossless_text needs, works with the methods {methods}"
        )
    if len(ids) > MOST_TOKENS:
        return f"lora.train_tokens names {len(ids)} tokens; at most {MOST_TOKENS} can train"
    rows = min(len(base.model.get_submodule(name).weight) for name in TOKEN_MATRICES)
    wrong = [token for token in ids if not 0 <= token < rows]
    return f"there is no token {wrong[0]}: {base.name} has {rows} embedding rows" if wrong else None


def add(
    model: PreTrainedModel, ids: Sequence[int], saved: Mapping[str, Tensor] | None = None
) -> None:
    """Makes tokens of a model trainable, once its adapter is in place.

    Args:
        ids: ascending, without problems (see :func:`problem`); may be empty.
        saved: the values of the rows, as an adapter's file has them; None for the base's own.

    Raises:
        DataError: the values differ between modules that share a matrix in the base.
    """
    made: dict[int, TokenRows] = {}
    for name, places in _places(len(ids)).items():
        module: Any = model.get_submodule(name)
        values = None if saved is None else saved[_SAVED.format(name)]
        rows = made.get(id(module.weight)) or TokenRows(module.weight, ids, values)
        if values is not None and not torch.equal(rows.start_KD[places], values.to(rows.start_KD)):
            raise DataError(
                f"the adapter's tokens in {name} differ from those of the same matrix elsewhere"
            )
        made[id(module.weight)] = module.token_rows = rows
        # Before float16's hook, which scales the output of the embeddings.
        module.register_forward_hook(
            rows.score if isinstance(module, nn.Linear) else rows.embed, prepend=True
        )


def head_rows(head: nn.Module) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Returns the ids (K,) of a head's trained tokens and what is added to their rows (K, D), or
    (None, None).
    """
    rows = getattr(head, "token_rows", None)
    return (
        (None, None) if rows is None or rows.disable_adapters else (rows.ids_K, rows.difference())
    )


def changes(model: nn.Module) -> dict[str, Tensor]:
    """Returns the trainable parameters of the rows by name; shared ones only once."""
    return {
        name: tensor.detach() for name, tensor in model.named_parameters() if ".token_rows." in name
    }


def _places(count: int) -> dict[str, list[int]]:
    """Returns which of ``count`` rows an adapter's folder holds for each module: all, and the
    head's last one twice.

    With equal lists of ids, PEFT would tie the head of any T5, Flan's too, or omit all rows.
    """
    return {
        name: [*range(count), *[count - 1] * (name == "lm_head")]
        for name in TOKEN_MATRICES
        if count
    }


def config_ids(ids: Sequence[int]) -> dict[str, list[int]]:
    """Returns the ids that an adapter's config holds for each module."""
    return {name: [ids[place] for place in places] for name, places in _places(len(ids)).items()}


def saved_shapes(base: LoadedBase, ids: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of what an adapter's file holds of the tokens."""
    return {
        _SAVED.format(name): (len(p), int(base.model.config.d_model))
        for name, p in _places(len(ids)).items()
    }


def from_checkpoint(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives a loaded adapter's rows the changes that a checkpoint holds, and returns the values
    that an adapter's file would. Training starts from the rows of the base, a loaded adapter from
    its own.
    """
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        if isinstance(module, TokenRows):
            change = module.change["default"]
            module.start_KD = module._base[0][module.ids_K].detach().to(torch.float32)
            change.data.copy_(values[own[id(change)]])
    return to_save(model)[1]


def to_save(model: nn.Module) -> tuple[dict[str, list[int]], dict[str, Tensor]]:
    """Returns the ids for an adapter's config and the values for its weights; both are empty if no
    tokens train.
    """
    found = {
        name: model.get_submodule(f"base_model.model.{name}")
        for name in TOKEN_MATRICES
        if changes(model)
    }
    rows = {name: cast(TokenRows, module.token_rows) for name, module in found.items()}
    ids = next((one.ids_K.tolist() for one in rows.values()), [])
    places = _places(len(ids))
    values = {
        _SAVED.format(name): one.values().detach().cpu()[places[name]] for name, one in rows.items()
    }
    return config_ids(ids), values
