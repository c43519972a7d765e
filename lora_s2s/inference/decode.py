"""Batch decoding: texts in, texts out, in input order.

Legend: B batch, S source length, T target length; ``_BS`` and ``_BT`` name the axes of a tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lora_s2s.errors import ResourceError, UsageError, ran_out_of_memory
from lora_s2s.inference.loading import Predictor
from lora_s2s.models.generation import decoding_config, only
from lora_s2s.models.loading import quiet
from lora_s2s.models.logits import finite_logits
from lora_s2s.tokens.encoder import panics_as_errors

# The step's logits have one row per hypothesis and the whole vocabulary: short sources alone would
# not bound them.
MOST_HYPOTHESES = 512


@dataclass(frozen=True)
class DecodingSettings:
    """How to decode.

    Attributes:
        max_new_tokens: hard limit per answer, ``</s>`` and a language code included; always passed
            on (the library's own limit is 20).
        num_beams: 1 is greedy; more is beam search with length penalty 1.
        batch_tokens: upper bound on padded source slots × beams of one batch (a longer source goes
            alone).
    """

    max_new_tokens: int = 128
    num_beams: int = 1
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UsageError(f"evaluation.{name} is {value}; expected at least 1")


@dataclass(frozen=True)
class Prediction:
    """One answer: its text without special tokens, the tokens produced (``</s>`` counted), whether
    ``</s>`` came.
    """

    text: str
    tokens: int
    stopped: bool


def decode(
    predictor: Predictor,
    sources: Sequence[str],
    settings: DecodingSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Answers every rendered source, in input order.

    Sources are sorted by length into batches, longest first, so padding is small and a batch too
    large for the memory fails at once; equal sources are decoded once. The result of a source does
    not depend on its neighbours beyond the rounding of the arithmetic. The model is left in
    evaluation mode.

    Args:
        predictor: what answers.
        sources: encoder texts as :meth:`Predictor.render` gives them.
        settings: limits; the defaults if None.
        progress: called with (sources done, sources in all) after each batch.

    Raises:
        ResourceError: a batch does not fit the accelerator's memory.
        DataError: the model's logits are not finite.
    """
    settings = settings or DecodingSettings()
    rows = [tuple(predictor.encode(source)) for source in sources]
    repeats = Counter(rows)
    answers: dict[tuple[int, ...], Prediction] = {}
    done = 0
    with predictor.ready() as model, only(model, _generation_config(predictor, settings)) as asked:
        for batch in length_batches(list(repeats), settings):
            batch_answers = _answer(
                model, predictor.tokenizer, batch, asked, settings, predictor.name
            )
            answers.update(zip(batch, batch_answers, strict=True))
            done += sum(repeats[row] for row in batch)
            if progress is not None:
                progress(done, len(rows))
    return [answers[row] for row in rows]


def length_batches(
    rows: Sequence[tuple[int, ...]], settings: DecodingSettings
) -> list[list[tuple[int, ...]]]:
    """Groups token rows by length, longest first, so that rows × longest × beams stays within
    ``batch_tokens``.
    """
    batches: list[list[tuple[int, ...]]] = []
    room = 0
    for row in sorted(rows, key=lambda row: (-len(row), row)):
        if room == 0:
            fitting = settings.batch_tokens // (max(len(row), 1) * settings.num_beams)
            room = max(1, min(fitting, MOST_HYPOTHESES // settings.num_beams))
            batches.append([])
        batches[-1].append(row)
        room -= 1
    return batches


def _answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[tuple[int, ...]],
    asked: GenerationConfig,
    settings: DecodingSettings,
    name: str,
) -> list[Prediction]:
    device = next(model.parameters()).device
    rows = [torch.tensor(row, dtype=torch.long) for row in batch]
    input_ids_BS = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    attention_mask_BS = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    try:
        with quiet():
            output_BT = model.generate(
                input_ids=input_ids_BS.to(device),
                attention_mask=attention_mask_BS.to(device),
                generation_config=asked,
                logits_processor=finite_logits(name),
            )
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        size = (
            f"{len(batch)} sources of up to {input_ids_BS.shape[1]} tokens with "
            f"{settings.num_beams} beam(s)"
        )
        hint = f"--set evaluation.batch_tokens={max(1, settings.batch_tokens // 2)}"
        raise ResourceError(f"out of memory decoding {size}", hint=hint) from error
    return [
        _prediction(row, tokenizer, asked.forced_bos_token_id) for row in output_BT[:, 1:].tolist()
    ]


def _generation_config(predictor: Predictor, settings: DecodingSettings) -> GenerationConfig:
    return decoding_config(
        predictor.model,
        predictor.tokenizer,
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.num_beams,
        positions=predictor.max_positions,
    )


def _prediction(
    ids: list[int], tokenizer: PreTrainedTokenizerBase, first: int | None
) -> Prediction:
    stopped = tokenizer.eos_token_id in ids
    if stopped:
        ids = ids[: ids.index(tokenizer.eos_token_id) + 1]
    # M2M100 does not count its language codes among the special tokens.
    shown = ids[1:] if ids[:1] == [first] else ids
    with panics_as_errors():
        text = tokenizer.decode(shown, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Prediction(text=text, tokens=len(ids), stopped=stopped)
