"""What ``auto`` means: batch, passes, learning rate and validations from the data's size and the
base's.

``resolve`` is pure: the same recipe and facts give the same numbers, so a run can be resumed or
repeated. A key that the user sets is never changed. The rate and the number of steps come from runs
on the bundled base over several kinds of task (``benchmarks/defaults.py``,
``benchmarks/results/defaults-cpu.json``; what was not run stands in ``benchmarks/LOG.md``); for
larger bases they follow published practice and are not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lora_s2s.recipe.fields import AUTO, FULL
from lora_s2s.recipe.schema import LoraSection, Recipe, TrainingSection

# Small data: rows seen over all passes, at most so many passes, and steps to spread them over.
_ROWS_SEEN = 64_000
_MOST_PASSES = 60
_STEPS = 2_000
_ROWS_A_STEP = (8, 32)
# Large data: one to three passes, and larger batches where there would be more steps than these.
_LARGE_ROWS_SEEN = 150_000
_LARGE_PASSES = 3
_MOST_STEPS, _MOST_ROWS_A_STEP = 3_000, 128
_FEWEST_STEPS = 500  # of the smallest batches, whatever a CPU takes for them
# Tokens in a batch: the least, and the most, for what it takes in memory: less on a CPU and for
# large bases.
_FEWEST_TOKENS, _MOST_TOKENS, _MOST_TOKENS_ON_GPU = 256, 4_096, 8_192
_LARGE_BASE = 500e6
# A CPU trains for minutes: FLOP of all steps (4 a parameter and token), as far as one pass over the
# data allows.
_CPU_FLOP = 1.1e14
# Learning rate by the base's parameters: a power law through the measured 3e-3 at 4.6 M and 3e-4 at
# 11,000 M; from 50 M on within the 3e-4 to 1e-3 that are usual for LoRA.
_RATE, _RATE_AT, _RATE_POWER = 3e-3, 4.6e6, -0.3
_USUAL_RATE, _USUAL_FROM = (3e-4, 1e-3), 50e6
# Full fine-tuning: the best of a sweep on the bundled base was 2e-3 where LoRA's was 8e-3
# (benchmarks/e2e_precision.py).
_FULL_RATE = 0.25
_RELATIVE_RATE = 1e-2  # torch's default for Adafactor
_PLAIN_SCALE = 2.0  # alpha / r of the measured runs; a larger scale takes a lower rate
_VALIDATIONS = 10
_VALIDATION_SHARE = 0.15  # of the training's compute
_FORWARD_SHARE = 0.4  # of a training step's compute


@dataclass(frozen=True)
class Lengths:
    """Token counts of one side of the training rows: in all, and percentiles."""

    total: int
    p50: int
    p95: int
    p99: int
    longest: int


@dataclass(frozen=True)
class Facts:
    """What is known once the data is prepared and the base is loaded.

    ``parameters`` are the base's, ``device`` is ``cpu`` or ``cuda``, ``validation_tokens`` are of
    both sides.
    """

    rows: int
    source: Lengths
    target: Lengths
    distinct_targets: int
    validation_tokens: int
    parameters: int
    device: str

    @property
    def tokens(self) -> int:
        """Source and target tokens of all training rows."""
        return self.source.total + self.target.total


def resolve(recipe: Recipe, facts: Facts) -> Recipe:
    """Returns the recipe with a number for every key of ``training`` that was ``auto``."""
    training = recipe.training
    if training.learning_rate == AUTO:
        rate = learning_rate(recipe.lora, facts.parameters)
        relative = training.optimizer == "adafactor"
        training = _with(training, learning_rate=_RELATIVE_RATE if relative else rate)
    if training.tokens_per_batch == AUTO:
        training = _with(training, tokens_per_batch=_batch_tokens(training, facts))
    if training.max_steps is None and training.epochs == AUTO:
        training = _with(training, epochs=float(_passes(facts)))
    if training.evaluate_every == AUTO:
        training = _with(training, evaluate_every=_steps_between_validations(training, facts))
    return recipe.model_copy(update={"training": training})


def explanation(recipe: Recipe, facts: Facts) -> str | None:
    """Returns one line on what :func:`resolve` chooses and from what; None where nothing was left
    to it.
    """
    before, after = recipe.training, resolve(recipe, facts).training
    chosen = [key for key, value in before if value == AUTO and getattr(after, key) != AUTO]
    words = [
        f"{key} {getattr(after, key):,g}"
        for key in chosen
        if isinstance(getattr(after, key), int | float)
    ]
    if not words:
        return None
    data = f"{facts.rows:,} rows of {_mean(facts):.0f} tokens"
    base = f"a base of {facts.parameters / 1e6:,.1f} M parameters"
    return f"training set by auto: {', '.join(words)}, for {data} and {base}"


def learning_rate(lora: LoraSection, parameters: int) -> float:
    """Returns the peak learning rate for a base of so many parameters, to one significant
    digit.
    """
    rate = _RATE * (max(parameters, 1) / _RATE_AT) ** _RATE_POWER
    low, high = _USUAL_RATE if parameters >= _USUAL_FROM else (_USUAL_RATE[0], _RATE)
    if lora.method == FULL:
        return float(f"{min(max(rate, low), high) * _FULL_RATE:.0e}")
    scale = lora.alpha / lora.r**0.5 if lora.method == "rslora" else lora.alpha / lora.r
    return float(f"{min(max(rate, low), high) * min(1.0, _PLAIN_SCALE / scale):.0e}")


def expected_steps(training: TrainingSection, facts: Facts) -> int:
    """Returns about how many optimizer steps a run takes; padding is not counted in."""
    if training.max_steps is not None:
        return training.max_steps
    epochs = training.epochs if isinstance(training.epochs, int | float) else 1.0
    return max(1, round(epochs * _steps_an_epoch(training, facts)))


def _with(training: TrainingSection, **changes: float) -> TrainingSection:
    return training.model_copy(update=changes)


def _mean(facts: Facts) -> float:
    return max(1.0, facts.tokens / max(1, facts.rows))


def _steps_an_epoch(training: TrainingSection, facts: Facts) -> float:
    batch = training.tokens_per_batch
    rows = training.batch_size or (
        batch / _mean(facts) if isinstance(batch, int) else _ROWS_A_STEP[1]
    )
    return max(1.0, facts.rows / max(1.0, rows) / training.gradient_accumulation)


def _passes(facts: Facts) -> int:
    """Passes over the data: many over few rows, up to three over many, and no more than a CPU
    computes in minutes.
    """
    rows = max(1, facts.rows)
    passes = min(
        max(_ROWS_SEEN // rows, min(_LARGE_ROWS_SEEN // rows, _LARGE_PASSES)), _MOST_PASSES
    )
    if facts.device == "cpu":
        passes = min(passes, int(_CPU_FLOP / (4 * facts.parameters * facts.tokens)))
    return max(math.ceil(_FEWEST_STEPS * _ROWS_A_STEP[0] / rows), passes)


def _batch_tokens(training: TrainingSection, facts: Facts) -> int:
    """Tokens of a micro-batch: so few rows that there are enough steps, at least one long row, a
    bound for memory.
    """
    epochs = training.epochs if isinstance(training.epochs, int | float) else _passes(facts)
    seen = facts.rows * epochs
    most_rows = min(max(_ROWS_A_STEP[1], seen / _MOST_STEPS), _MOST_ROWS_A_STEP)
    rows = min(max(seen / _STEPS, _ROWS_A_STEP[0]), most_rows) / training.gradient_accumulation
    longest = facts.source.p99 + facts.target.p99
    roomy = facts.device == "cuda" and facts.parameters < _LARGE_BASE
    tokens = min(
        max(rows * _mean(facts), longest, _FEWEST_TOKENS),
        _MOST_TOKENS_ON_GPU if roomy else _MOST_TOKENS,
    )
    return math.ceil(tokens / 64) * 64


def _steps_between_validations(training: TrainingSection, facts: Facts) -> int:
    """Ten validations a run, fewer where they would take more than a seventh of the training's
    compute.
    """
    steps = expected_steps(training, facts)
    if not facts.validation_tokens:
        return 0
    trained = steps / _steps_an_epoch(training, facts) * facts.tokens
    affordable = _VALIDATION_SHARE * trained / (_FORWARD_SHARE * facts.validation_tokens)
    return max(1, round(steps / min(max(affordable, 1.0), _VALIDATIONS)))
