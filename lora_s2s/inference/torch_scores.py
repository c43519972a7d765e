"""Log-probabilities of candidates by a model in torch: the encoder once for a source, a shared
beginning once.

Legend: G sources of a group, R rows, L tokens that a row reads, S source length, D model width,
V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lora_s2s.inference.prefix_tree import Candidate, Step, steps_of
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.models.generation import start_id
from lora_s2s.models.logits import check_logits

# One more step costs as much as so many rows: weights are read, kernels are started.
PASS_COSTS, _ELSEWHERE = {"cpu": 16}, 512
# Logits in memory at once.
LOGITS_AT_ONCE = 1 << 25


class _Read(NamedTuple):
    """What a step's rows predict, (R, L, V), and the cache that further rows continue."""

    log_probs_RLV: Tensor
    cache: EncoderDecoderCache


@torch.inference_mode()
def log_probs(
    engine: TorchEngine,
    sources: Sequence[Sequence[int]],
    candidates: Sequence[Candidate],
    *,
    most_rows: int,
) -> list[float]:
    """Returns the log-probability (nats) of each candidate: the sum over all its ids.

    Args:
        sources: token ids of one group's sources.
        candidates: in any order.
        most_rows: how many candidates are read at once.

    Raises:
        DataError: the model's logits are not finite.
    """
    order = sorted(range(len(candidates)), key=lambda place: candidates[place])
    scores = [0.0] * len(candidates)
    with engine.ready() as adapted:
        model = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
        reader = _Reader(engine, model, sources)
        for begin in range(0, len(order), most_rows):
            places = order[begin : begin + most_rows]
            for place, score in zip(
                places, reader.scores([candidates[n] for n in places]), strict=True
            ):
                scores[place] = score
    return scores


class _Reader:
    """Encoded sources, and the decoder after its start."""

    def __init__(
        self, engine: TorchEngine, model: PreTrainedModel, sources: Sequence[Sequence[int]]
    ) -> None:
        inputs = engine.inputs(sources)
        self._name, self._model, self._mask_GS = engine.name, model, inputs["attention_mask"]
        self._device = self._mask_GS.device
        self._memory_GSD = model.get_encoder()(**inputs).last_hidden_state
        start_G1 = self._mask_GS.new_full((len(sources), 1), start_id(model, engine.tokenizer))
        self._first = self._forward(start_G1, self._memory_GSD, self._mask_GS, None)

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """Returns the log-probability of each candidate."""
        costs = PASS_COSTS.get(self._device.type, _ELSEWHERE)
        first, *steps = steps_of(candidates, sources=len(self._mask_GS), pass_costs=costs)
        parts = [(first, self._chosen(self._first.log_probs_RLV, first))]
        cache = self._first.cache
        vocabulary = self._first.log_probs_RLV.shape[-1]
        for step in steps:
            longest = max(map(len, step.inputs))
            rows = max(1, LOGITS_AT_ONCE // (vocabulary * longest))
            for part in step.parts(rows):
                read = self._read(part, cache)
                parts.append((part, self._chosen(read.log_probs_RLV, part)))
            cache = read.cache
        scores = [0.0] * len(candidates)
        for step, chosen in parts:
            for token, value in zip(step.tokens, chosen.tolist(), strict=True):
                scores[token.candidate] += value
        return scores

    def _chosen(self, log_probs_RLV: Tensor, step: Step) -> Tensor:
        rows, positions, tokens, _ = zip(*step.tokens, strict=True)
        return log_probs_RLV[[*rows], [*positions], [*tokens]]

    def _read(self, step: Step, cache: EncoderDecoderCache) -> _Read:
        parents_R, sources_R = (
            torch.tensor(places, device=self._device) for places in (step.parents, step.sources)
        )
        inputs = [torch.tensor(ids) for ids in step.inputs]
        inputs_RL = pad_sequence(inputs, batch_first=True).to(self._device)
        own = _copied(cache.self_attention_cache)
        own.batch_select_indices(parents_R)
        cross = _copied(cache.cross_attention_cache)
        for layer, first in zip(
            cross.layers, self._first.cache.cross_attention_cache.layers, strict=True
        ):
            layer.keys, layer.values = (
                _of_rows(one, sources_R) for one in (first.keys, first.values)
            )
        memory_RSD, mask_RS = (
            _of_rows(one, sources_R) for one in (self._memory_GSD, self._mask_GS)
        )
        return self._forward(inputs_RL, memory_RSD, mask_RS, EncoderDecoderCache(own, cross))

    def _forward(
        self,
        inputs_RL: Tensor,
        memory_RSD: Tensor,
        mask_RS: Tensor,
        cache: EncoderDecoderCache | None,
    ) -> _Read:
        output = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory_RSD),
            attention_mask=mask_RS,
            decoder_input_ids=inputs_RL,
            past_key_values=cache,
            use_cache=True,
        )
        check_logits(output.logits, model=self._name)
        return _Read(output.logits.float().log_softmax(dim=-1), output.past_key_values)


def _copied(cache: Cache) -> Cache:
    """A cache whose layers may be replaced; their tensors are shared."""
    mine = copy.copy(cache)
    mine.layers = [copy.copy(layer) for layer in cache.layers]
    return mine


def _of_rows(values: Tensor, sources_R: Tensor) -> Tensor:
    """What belongs to each row's source, (R, …); without a copy where there is one source."""
    if len(values) == 1:
        return values.expand(len(sources_R), *values.shape[1:])
    return values.index_select(0, sources_R)
