"""Whether an exported model answers as the model it was made from, and how fast.

Three comparisons on real sources: the log-probability of every token of the reference's own
answers, greedy answers, and answers with four beams. Both sides stop a beam search as soon as it
has as many finished answers as beams (``early_stopping``), the rule of other runtimes.

B batch, T target length, V vocabulary.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from lora_s2s.errors import RunError
from lora_s2s.inference.engine import DecodingSettings, Engine, ExportedEngine, TokenIds
from lora_s2s.inference.predictor import Predictor
from lora_s2s.models.generation import start_id

BEAMS = 4
_BATCH = 16
# Answers that the reference itself scores alike, in nats over the whole answer.
_TIE = 1e-3


@dataclass(frozen=True)
class Thresholds:
    """What an export may differ by: log-probabilities in nats a token, shares of equal answers."""

    max_log_prob: float
    mean_log_prob: float
    equal_answers: float


_HALF = Thresholds(max_log_prob=1.0, mean_log_prob=0.02, equal_answers=0.9)
_INT8 = Thresholds(max_log_prob=4.0, mean_log_prob=0.1, equal_answers=0.7)
THRESHOLDS = {
    "float32": Thresholds(max_log_prob=1e-3, mean_log_prob=1e-4, equal_answers=1.0),
    "float16": _HALF,
    "bfloat16": Thresholds(max_log_prob=2.0, mean_log_prob=0.1, equal_answers=0.7),
    "int8": _INT8,
    "int8_float32": _INT8,
    "int8_float16": _INT8,
}


@dataclass(frozen=True)
class Speed:
    """Of greedy answers: tokens a second in batches, and milliseconds for one source alone."""

    tokens_per_second: float
    latency_p50: float
    latency_p95: float


@dataclass(frozen=True)
class Parity:
    """What was compared and found.

    Attributes:
        sources: number of sources; ``tokens`` of the reference's greedy answers together.
        max_log_prob_difference, mean_log_prob_difference: absolute, in nats a token.
        greedy_equal, beam_equal: shares of answers that are the same tokens, or that the reference
            scores the same to 1e-3.
        reference, export: how fast both were, on this machine and these sources.
    """

    sources: int
    tokens: int
    max_log_prob_difference: float
    mean_log_prob_difference: float
    greedy_equal: float
    beam_equal: float
    reference: Speed
    export: Speed

    def to_dict(self) -> dict[str, object]:
        """Returns the entry ``parity`` of ``export --json``."""
        return asdict(self)


class Reference:
    """The float32 model in torch, behind the same functions."""

    runtime = "torch"

    def __init__(self, predictor: Predictor) -> None:
        """Takes a whole model, or an adapter on its base."""
        self.predictor, self.engine = predictor, predictor.torch
        self.end = int(predictor.tokenizer.eos_token_id)

    def answers(self, sources: TokenIds, settings: DecodingSettings) -> list[list[int]]:
        """See :class:`lora_s2s.inference.engine.Engine`."""
        return self.engine.answers(sources, settings)

    @torch.inference_mode()
    def log_probs(self, sources: TokenIds, answers: TokenIds) -> list[list[float]]:
        """See :class:`ExportedEngine`."""
        begin = start_id(self.engine.model, self.predictor.tokenizer)
        rows = []
        with self.engine.ready() as model:
            for source, answer in zip(sources, answers, strict=True):
                decoder_ids_BT = torch.tensor([[begin, *answer]])
                labels_T = torch.tensor([*answer, self.end])
                inputs = self.engine.inputs([source])
                logits_BTV = model(**inputs, decoder_input_ids=decoder_ids_BT).logits
                logits_BTV[..., self._never()] = -torch.inf
                log_probs_TV = logits_BTV[0].float().log_softmax(dim=-1)
                rows.append(log_probs_TV.gather(1, labels_T[:, None])[:, 0].tolist())
        return rows

    def vocabulary(self) -> list[str]:
        """See :class:`ExportedEngine`."""
        tokenizer = self.predictor.tokenizer
        tokens: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        return tokens

    def _never(self) -> list[int]:
        """Ids that no answer holds, such as Marian's padding; other runtimes leave them out of the
        softmax.
        """
        return [ids[0] for ids in never_of(self.predictor) if len(ids) == 1]


def never_of(predictor: Predictor) -> list[list[int]]:
    """Returns the sequences of ids that no answer of a model may hold."""
    return [list(ids) for ids in predictor.torch.model.generation_config.bad_words_ids or []]


@dataclass(frozen=True)
class Expected:
    """What the reference answers to sources of rising length, before anything is written.

    Attributes:
        greedy, beam: answers without ``</s>``.
        log_probs: of the greedy answers' tokens, ``</s>`` included.
        speed: of the greedy answers.
    """

    reference: Reference
    sources: list[Sequence[int]]
    max_new_tokens: int
    greedy: list[list[int]]
    beam: list[list[int]]
    log_probs: list[list[float]]
    speed: Speed

    @property
    def search(self) -> DecodingSettings:
        """The beam search that both sides run."""
        return DecodingSettings(self.max_new_tokens, num_beams=BEAMS, early_stopping=True)


def expect(reference: Reference, sources: TokenIds, *, max_new_tokens: int) -> Expected:
    """Returns what a model answers.

    Args:
        reference: the model in float32.
        sources: token ids, special tokens included.
        max_new_tokens: of each answer.
    """
    ordered = sorted(sources, key=len)
    settings = DecodingSettings(max_new_tokens)
    answers, speed = _timed(reference, ordered, settings)
    greedy = without_end(answers, reference.end)
    log_probs = reference.log_probs(ordered, greedy)
    expected = Expected(reference, ordered, max_new_tokens, greedy, [], log_probs, speed)
    beam = _answers(reference, ordered, expected.search)
    return replace(expected, beam=without_end(beam, reference.end))


def compare(expected: Expected, export: ExportedEngine) -> Parity:
    """Compares an export with what its model answered, and both sides' speed."""
    reference, sources = expected.reference, expected.sources
    settings = DecodingSettings(expected.max_new_tokens)
    answers, export_speed = _timed(export, sources, settings)
    found = export.log_probs(sources, expected.greedy)
    differences = [
        abs(a - b)
        for row, other in zip(expected.log_probs, found, strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    beam = _answers(export, sources, expected.search)
    return Parity(
        sources=len(sources),
        tokens=sum(len(answer) + 1 for answer in expected.greedy),
        # A NaN must not vanish in a maximum.
        max_log_prob_difference=max(
            (float("inf") if value != value else value for value in differences), default=0.0
        ),
        mean_log_prob_difference=statistics.fmean(differences),
        greedy_equal=_equal(expected, expected.greedy, without_end(answers, reference.end)),
        beam_equal=_equal(expected, expected.beam, without_end(beam, reference.end)),
        reference=expected.speed,
        export=export_speed,
    )


def check(parity: Parity, reference: Reference, export: ExportedEngine, precision: str) -> None:
    """Refuses an export that differs by more than its precision explains.

    Raises:
        RunError: with what differs, and by how much.
    """
    tokens, converted = reference.vocabulary(), export.vocabulary()
    padding = reference.predictor.tokenizer.pad_token
    for token_id, token in enumerate(tokens):
        other = converted[token_id] if token_id < len(converted) else None
        # Marian's padding begins every answer by a flag of its own, and has no entry.
        if other != token and not (other is None and token == padding):
            raise RunError(f"the export reads token {token_id} as {other!r}, not {token!r}")
    most = THRESHOLDS[precision]
    measures = (
        ("largest log-probability difference", parity.max_log_prob_difference, most.max_log_prob),
        ("mean log-probability difference", parity.mean_log_prob_difference, most.mean_log_prob),
        ("greedy answers that differ", 1 - parity.greedy_equal, 1 - most.equal_answers),
        (f"answers with {BEAMS} beams that differ", 1 - parity.beam_equal, 1 - most.equal_answers),
    )
    wrong = [
        f"{name} {value:.3g} (at most {limit:.3g})"
        for name, value, limit in measures
        if not value <= limit + 1e-9
    ]
    if wrong:
        raise RunError(
            f"the {precision} export does not answer as the model does: {'; '.join(wrong)}",
            hint="try --precision float32, or report this with the versions of the libraries",
        )


def without_end(answers: TokenIds, end: int) -> list[list[int]]:
    """Returns answers without their ``</s>``."""
    return [[token for token in answer if token != end] for answer in answers]


def _answers(engine: Engine, sources: TokenIds, settings: DecodingSettings) -> list[list[int]]:
    """Answers to all sources, in batches of one size for every engine."""
    answers = []
    for start in range(0, len(sources), _BATCH):
        answers += engine.answers(sources[start : start + _BATCH], settings)
    return answers


def _timed(
    engine: Engine, sources: TokenIds, settings: DecodingSettings
) -> tuple[list[list[int]], Speed]:
    """Greedy answers to all sources in batches, and the time of some alone."""
    engine.answers(sources[:1], settings)  # first calls set buffers up
    began = time.perf_counter()
    answers = _answers(engine, sources, settings)
    seconds = time.perf_counter() - began
    alone = []
    for source in sources[:: max(1, len(sources) // 16)]:
        began_alone = time.perf_counter()
        engine.answers([source], settings)
        alone.append(1000 * (time.perf_counter() - began_alone))
    alone.sort()
    tokens = sum(map(len, answers))
    return answers, Speed(
        tokens_per_second=tokens / seconds,
        latency_p50=statistics.median(alone),
        latency_p95=alone[min(len(alone) - 1, int(0.95 * len(alone)))],
    )


def _equal(expected: Expected, answers: TokenIds, others: TokenIds) -> float:
    """The share of answers that are the same, or that the reference scores alike."""
    equal = 0
    for source, answer, other in zip(expected.sources, answers, others, strict=True):
        if list(answer) == list(other):
            equal += 1
        else:
            scores = expected.reference.log_probs([source, source], [answer, other])
            equal += abs(sum(scores[0]) - sum(scores[1])) <= _TIE
    return equal / len(expected.sources)
