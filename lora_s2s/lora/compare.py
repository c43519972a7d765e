"""Compares another model with an adapter on its base: logits at the adapter's own answers.

B batch, S source length, T target length, N target positions of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lora_s2s.lora.adapter import LoadedAdapter
from lora_s2s.models.generation import answer_ids, only, plain_answers
from lora_s2s.models.logits import check_logits, finite_logits
from lora_s2s.tokens.loading import plain_tokenizer
from lora_s2s.tokens.tokenise import encode_source

_MOST_SOURCE_TOKENS = 512
_LONGEST_ANSWER = 64
_ROWS = 16
_INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Probe:
    """A batch of sources (texts and padded ids) with the adapter's answers (ids, and padded decoder
    inputs) and its logits at the positions that ``real_BT`` marks: those up to the end.
    """

    texts: list[str]
    inputs: dict[str, Tensor]
    answers: list[list[int]]
    inputs_BT: Tensor
    real_BT: Tensor
    logits_NV: Tensor


def probes_of(
    adapter: LoadedAdapter,
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig,
    texts: Sequence[str],
) -> Iterator[Probe]:
    """Yields the adapter's answers to rendered sources."""
    longest = min(_LONGEST_ANSWER, generation.max_new_tokens)
    with torch.inference_mode(), only(adapter.model, generation):
        for some, inputs in _batches(adapter, tokenizer, texts):
            inputs_BT = adapter.model.generate(
                **inputs,
                max_new_tokens=longest,
                logits_processor=finite_logits(str(adapter.folder)),
            )
            real_BT = (inputs_BT != tokenizer.pad_token_id) & (inputs_BT != tokenizer.eos_token_id)
            real_BT[:, 0] = True  # the start id, which may be the padding id
            logits_BTV = adapter.model(**inputs, decoder_input_ids=inputs_BT).logits
            check_logits(logits_BTV, model=str(adapter.folder))
            answers = answer_ids(inputs_BT, tokenizer.eos_token_id)
            yield Probe(some, inputs, answers, inputs_BT, real_BT, logits_BTV[real_BT].float())


def _batches(
    adapter: LoadedAdapter, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
    """Yields texts with their ``input_ids`` and ``attention_mask``, (B, S) each, sources of similar
    length together.
    """
    most = longest_source(adapter)
    rows = [
        (encode_source(text, tokenizer, max_source_tokens=most, truncate_source="right"), text)
        for text in texts
    ]
    rows.sort(key=lambda row: len(row[0]))
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        batch = tokenizer.pad({"input_ids": [ids for ids, _ in some]}, return_tensors="pt")
        inputs = {name: batch[name].to(adapter.base.device) for name in _INPUTS}
        yield [text for _, text in some], inputs


def longest_source(adapter: LoadedAdapter) -> int:
    """Returns the most tokens of a source that are compared."""
    most = min(adapter.manifest.input.max_source_tokens, _MOST_SOURCE_TOKENS)
    return min(most, adapter.base.family.max_positions(adapter.base.model.config) or most)


def position_count(probes: Sequence[Probe]) -> int:
    """Returns how many target positions are compared."""
    return sum(len(probe.logits_NV) for probe in probes)


@torch.inference_mode()
def measured(model: PreTrainedModel, probes: Sequence[Probe]) -> dict[str, float]:
    """Returns the largest and the mean absolute logit difference, and the share of positions whose
    most likely token differs.
    """
    largest, total, changed, count = 0.0, 0.0, 0, 0
    for probe in probes:
        logits_BTV = model(**probe.inputs, decoder_input_ids=probe.inputs_BT).logits
        after_NV = logits_BTV[probe.real_BT].float()
        difference_NV = (probe.logits_NV - after_NV).abs()
        # max() would drop a NaN.
        largest = max(largest, float(difference_NV.max().nan_to_num(nan=float("inf"))))
        total += float(difference_NV.sum(dtype=torch.float64))
        count += difference_NV.numel()
        changed += int((probe.logits_NV.argmax(dim=-1) != after_NV.argmax(dim=-1)).sum())
    return {
        "max_logit_difference": largest,
        "mean_logit_difference": total / count,
        "top1_changed": changed / position_count(probes),
    }


def answers_changed(folder: Path, probes: Sequence[Probe], *, max_source_tokens: int) -> float:
    """Returns the share of the adapter's answers that differ from those of plain transformers with
    a model's folder and its tokenizer.
    """
    tokenizer = plain_tokenizer(folder, str(folder))
    settings = {"padding": True, "truncation": True, "max_length": max_source_tokens}
    tokenizer.truncation_side = "right"  # as the probes' sources were cut
    batches = []
    for probe in probes:
        batch = tokenizer(probe.texts, return_tensors="pt", **settings)
        batches.append({name: batch[name].to(probe.inputs_BT.device) for name in _INPUTS})
    theirs = plain_answers(folder, batches, most=_LONGEST_ANSWER)
    pairs = [
        pair
        for probe, rows in zip(probes, theirs, strict=True)
        for pair in zip(probe.answers, rows, strict=True)
    ]
    return sum(ours != other for ours, other in pairs) / len(pairs)
