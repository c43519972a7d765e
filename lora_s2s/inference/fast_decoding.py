"""Chooses how a model in torch decodes: by our own decoder if it supports the model and agrees with
transformers' on the first sources, otherwise by transformers' ``generate``.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from lora_s2s.console import say
from lora_s2s.fast_t5.choose import VARIABLE
from lora_s2s.fast_t5.decoder import Decoder, decoder_of

_TOLERANCE = 1e-3  # log-probabilities may differ by rounding only
_STEPS, _SOURCES, _MOST_TOKENS = 4, 2, 256
_KEPT = 2  # decoders of a model: with its adapter and without


class _Chosen(NamedTuple):
    """A model's decoder, None for ``generate``, and what its weights were."""

    weights: int
    decoder: Decoder | None


_CHOSEN: WeakKeyDictionary[nn.Module, dict[Hashable, _Chosen]] = WeakKeyDictionary()


def fast_decoder(
    model: PreTrainedModel, sources: Sequence[Sequence[int]], *, start: int, adapter: Hashable
) -> Decoder | None:
    """Returns the decoder of a model that is ready to answer; None if ``generate`` must be used.

    It is kept until the model's weights or its adapter change.

    Args:
        sources: token ids that come first, for the comparison.
        start: the decoder's first id.
        adapter: what tells the model's adapters apart.
    """
    if os.environ.get(VARIABLE, "fast") != "fast":
        return None
    # In-place changes of a tensor count up its version.
    weights = hash(tuple((weight.data_ptr(), weight._version) for weight in model.parameters()))
    kept = _CHOSEN.setdefault(model, {})
    if (chosen := kept.get(adapter)) is None or chosen.weights != weights:
        chosen = _Chosen(weights, _settled(model, sources, start))
        kept.pop(adapter, None)
        while len(kept) >= _KEPT:
            del kept[next(iter(kept))]
        kept[adapter] = chosen
    return chosen.decoder


def forget(model: nn.Module) -> None:
    """Frees a model's decoders, which hold products of its weights."""
    _CHOSEN.pop(model, None)


def _settled(
    model: PreTrainedModel, sources: Sequence[Sequence[int]], start: int
) -> Decoder | None:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = decoder_of(base)
    if decoder is None:
        return None
    few = [list(source[:_MOST_TOKENS]) for source in sorted(sources, key=len)[:_SOURCES]]
    difference = _difference(model, decoder, few, start)
    if difference <= _TOLERANCE:
        return decoder
    problem = f"the log-probabilities of ours differ from its by {difference:.2g}"
    say(f"decoding: by transformers' generate, since {problem}")
    return None


def _difference(
    model: PreTrainedModel, decoder: Decoder, sources: Sequence[Sequence[int]], start: int
) -> float:
    """The largest difference of log-probabilities over the first steps of greedy answers."""
    state, steps = decoder.read(sources), []
    ids_BT = torch.full((len(sources), 1), start, device=decoder.device)
    for _ in range(_STEPS):
        steps.append(decoder.step(state, ids_BT[:, -1]))
        ids_BT = torch.cat([ids_BT, steps[-1].argmax(dim=-1, keepdim=True)], dim=1)
    differences = []
    for row, source in enumerate(sources):
        source_1S = torch.tensor([list(source)], device=decoder.device)
        logits_1TV = model(input_ids=source_1S, decoder_input_ids=ids_BT[row : row + 1, :-1]).logits
        ours_TV = torch.stack([logits_BV[row] for logits_BV in steps]).float().log_softmax(dim=-1)
        theirs_TV = logits_1TV[0].float().log_softmax(dim=-1)
        differences.append((ours_TV - theirs_TV).abs().max())
    return float(torch.stack(differences).max())
