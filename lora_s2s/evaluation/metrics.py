"""Scores in points against raw reference texts, each with a 95 % interval and a signature.

The unit is the source: several references of one source are one observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation import significance
from lora_s2s.evaluation.combined import combine, combined_scale
from lora_s2s.evaluation.corpus import corpus
from lora_s2s.evaluation.descriptive import copy_rate, repetition_rate
from lora_s2s.evaluation.likelihood import bits_per_byte, loss
from lora_s2s.evaluation.measured import (
    POINTS,
    Better,
    Measured,
    NamedInterval,
    Scale,
)
from lora_s2s.evaluation.overlap import (
    edit_similarity,
    exact_match,
    macro_f1,
    rouge,
    token_f1,
)
from lora_s2s.evaluation.own import own_metric, own_scale
from lora_s2s.evaluation.significance import Interval, Values
from lora_s2s.evaluation.structured import (
    json_f1,
    json_sources,
    json_valid,
    number_accuracy,
    number_sources,
)
from lora_s2s.evaluation.sums import (
    bleu_of_sums,
    chrf_of_sums,
    length_ratio_of_sums,
    ter_of_sums,
)
from lora_s2s.evaluation.texts import Losses, References, Texts
from lora_s2s.examples.custom import user_function
from lora_s2s.recipe.combinations import Combination, read_combination
from lora_s2s.recipe.fields import DESCRIPTIVE, ERROR_RATES, FUNCTION, UNBOUNDED

Measure = Callable[[Texts], Measured]


@dataclass(frozen=True)
class Score:
    """A metric's value in points, its 95 % interval over sources, and how both were computed.

    100 is the best value, or 0 where lower is better; an end without a limit is infinite. ``n`` is
    how many sources count, if not all do.
    """

    name: str
    value: float
    interval: Interval
    signature: str
    n: int | None = field(default=None, kw_only=True)
    scale: Scale = field(default=POINTS, kw_only=True)

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric counts errors."""
        return self.scale.better == "lower"

    def to_json(self) -> dict[str, object]:
        """``{"value", "interval", "signature"}``, with the p-value if there is one, ``n`` if not
        all sources count, ``lower_is_better`` and ``descriptive`` (neither is better) where they
        hold; an end without a limit is null.
        """
        entry: dict[str, object] = {
            key: value for key, value in vars(self).items() if key not in ("name", "scale", "n")
        }
        if self.n is not None:
            entry["n"] = self.n
        entry["interval"] = tuple(end if math.isfinite(end) else None for end in self.interval)
        for key, better in (("lower_is_better", "lower"), ("descriptive", "neither")):
            if self.scale.better == better:
                entry[key] = True
        return entry


@dataclass(frozen=True)
class Difference(Score):
    """Model − other of one metric in points, with what it is worth.

    Attributes:
        p_value: of paired approximate randomisation (exact where that is possible), two-sided.
        bootstrap_p_value: of the paired bootstrap, two-sided.
        detectable: the smallest true difference that as many sources show at a level of 5 % with
            80 % power; None if the two systems' scores do not differ on any source.
    """

    p_value: float
    bootstrap_p_value: float
    detectable: float | None


def score(
    predictions: Sequence[str],
    references: References,
    metrics: Sequence[str],
    sources: Sequence[str] | None = None,
) -> dict[str, Score]:
    """Scores predictions against one or more raw references each.

    Args:
        predictions: one text per unique source.
        references: every reference of that source, in the same order.
        metrics: names from ``METRICS``, combinations of them, or ``module:function``.
        sources: the sources, which ``copy_rate`` needs.

    Raises:
        UsageError: an unknown metric (suggests the nearest), or one that does not fit the data.
        DataError: nothing to score, different numbers of predictions and references, or a source
            without a reference.
    """
    return scores_of(measure(predictions, references, metrics, sources))


def scores_of(measured: Mapping[str, Measured]) -> dict[str, Score]:
    """The scores and intervals of measured metrics."""
    scores = {}
    for name, metric in measured.items():
        value, scale = metric.value(), metric.scale
        interval, kind = within(metric, metric.interval(), value, scale.low, scale.high)
        signature = f"{metric.signature}|ci:{kind}"
        scores[name] = Score(name, value, interval, signature, n=metric.counted, scale=scale)
    return scores


def within(
    metric: Measured, interval: NamedInterval, value: float, low: float, high: float
) -> tuple[Interval, str]:
    """Limits an interval to possible scores and, against rounding, to contain the value; the whole
    range without an interval.

    Sources that are all alike have no spread to estimate an interval from. As many others may then
    lie at the ends of the range as Wilson's interval leaves to what none of the sources shows.
    """
    ends, kind = interval
    if ends is None:
        return (low, high), "none"
    if ends[1] - ends[0] < _NO_WIDTH:
        sources = len(metric.each()) if metric.counted is None else metric.counted
        _, unseen = significance.wilson_interval(0, sources)
        below, above = (
            value + unseen * (end - value) if math.isfinite(end) else value for end in (low, high)
        )
        return (below, above), "wilson-unseen"
    return (min(value, max(low, ends[0])), max(value, min(high, ends[1]))), kind


def measure(
    predictions: Sequence[str],
    references: References,
    metrics: Sequence[str],
    sources: Sequence[str] | None = None,
    losses: Losses | None = None,
) -> dict[str, Measured]:
    """Computes each metric's statistics; arguments and errors as in :func:`score`.

    Args:
        losses: those of the references, which ``MODEL_METRICS`` need.
    """
    check_metrics(metrics)
    if not predictions:
        raise DataError("there is nothing to score: no rows")
    if len(predictions) != len(references):
        raise DataError(f"{len(predictions)} predictions for {len(references)} lists of references")
    for index, texts in enumerate(references):
        if not texts:
            raise DataError("a source has no reference", where=f"source {index + 1}")
    together = Texts(predictions, references, sources, losses)
    parts = {name: _measured(name, together) for name in metrics_in(metrics)}
    return {
        name: parts[name] if name in parts else combine(name, _combination(name), parts)
        for name in metrics
    }


def utilities(
    predictions: Sequence[str],
    references: Sequence[str],
    metric: str,
    sources: Sequence[str] | None = None,
) -> Values:
    """The score of each prediction alone against its reference, (N,): higher is better, and 0 where
    the reference does not suit the metric.

    Raises:
        UsageError: an unknown metric, or one that describes answers.
    """
    # Without any that suits it, a metric is an error; this pair suits them all.
    anything = '{"n": 1}'
    listed = [[text] for text in (*references, anything)]
    given = None if sources is None else [*sources, anything]
    measured = measure([*predictions, anything], listed, [metric], given)[metric]
    if measured.scale.better == "neither":
        raise UsageError(
            f"evaluation.mbr is {metric}, which describes answers: neither higher nor lower is "
            "better",
            hint="--set evaluation.mbr=chrf",
        )
    values = np.nan_to_num(measured.each()[:-1])
    return -values if measured.scale.better == "lower" else values


def metrics_in(names: Sequence[str]) -> list[str]:
    """The metrics that names are or, as combinations, consist of, each once.

    Raises:
        UsageError: as of :func:`check_metrics`.
    """
    parts = (
        (name,) if name in METRICS or FUNCTION.fullmatch(name) else _combination(name).metrics
        for name in names
    )
    return list(dict.fromkeys(name for several in parts for name in several))


def _combination(name: str) -> Combination:
    try:
        return read_combination(name, METRICS)
    except ValueError as error:
        hint = f"metrics: {', '.join(METRICS)}, combinations such as sqrt(bleu*chrf++), or "
        raise UsageError(str(error), hint=f"{hint}module:function") from error


def _measured(name: str, texts: Texts) -> Measured:
    if name in METRICS:
        return replace(METRICS[name](texts), scale=_scale(name))
    return own_metric(name, texts)


def scale_of(name: str) -> Scale:
    """The values that a metric, a combination or a function can have, and which are better.

    Raises:
        UsageError: as of :func:`check_metrics`.
    """
    if name in METRICS:
        return _scale(name)
    if FUNCTION.fullmatch(name):
        return own_scale(name)
    combination = _combination(name)
    return combined_scale(combination, {part: _scale(part) for part in combination.metrics})


def _scale(name: str) -> Scale:
    better: Better = "neither" if name in DESCRIPTIVE else "higher"
    if name in ERROR_RATES:
        better = "lower"
    return Scale(high=math.inf if name in UNBOUNDED else 100.0, better=better)


def need_the_model(names: Sequence[str]) -> bool:
    """Whether a metric scores the references by the model, so that answers do not suffice."""
    return not MODEL_METRICS.isdisjoint(metrics_in(names))


def check_metrics(names: Sequence[str]) -> None:
    """Checks metric names before anything is decoded.

    Raises:
        UsageError: an unknown metric (lists those of ``METRICS``), a text that is no combination of
            them, or a function that cannot be imported.
    """
    for name in metrics_in(names):
        if name not in METRICS:
            user_function(name, "metric")


def check_fit(names: Sequence[str], references: References) -> None:
    """Checks that metrics fit the references, before anything is decoded.

    Raises:
        UsageError: a metric has nothing to count.
    """
    for name in metrics_in(names):
        if name in _NEEDED:
            _NEEDED[name](references)


def fitting(names: Sequence[str], references: References) -> list[str]:
    """The metrics that have something to count in references."""
    fit = []
    for name in names:
        try:
            check_fit([name], references)
        except UsageError:
            continue
        fit.append(name)
    return fit


def without_value(*systems: Mapping[str, Measured] | None) -> list[str]:
    """The metrics that are not a number for a system: combinations that divide by zero, or take the
    root of a negative number.
    """
    return [
        name
        for name in systems[0] or {}
        if not all(math.isfinite(system[name].value()) for system in systems if system)
    ]


def compare(
    system: Mapping[str, Measured], baseline: Mapping[str, Measured]
) -> dict[str, Difference]:
    """Differences between adapter and base per metric, with intervals and tests paired by source.

    If both are the same object, the answers are identical and the difference is exactly zero.
    """
    differences = {}
    for name, measured in system.items():
        other = baseline[name]
        test, bootstrap = measured.test(other), measured.bootstrap(other)
        value, scale = measured.value() - other.value(), measured.scale
        most = scale.high - scale.low
        named = measured.difference_interval(other)
        interval, kind = within(measured, named, value, -most, most)
        if measured is other:
            interval, kind = (0.0, 0.0), "identical"
        signature = "|".join(
            (
                measured.signature,
                f"ci:{kind}",
                f"test:{test.name}",
                "sides:2",
                bootstrap.name,
            )
        )
        worth = (test.p_value, bootstrap.p_value, measured.detectable(other))
        differences[name] = Difference(
            name, value, interval, signature, *worth, n=measured.counted, scale=scale
        )
    return differences


METRICS: dict[str, Measure] = {
    "bleu": partial(corpus, BLEU, bleu_of_sums, alone=partial(bleu_of_sums, effective=True)),
    "chrf": partial(corpus, CHRF, chrf_of_sums),
    "chrf++": partial(corpus, partial(CHRF, word_order=2), chrf_of_sums),
    "ter": partial(corpus, TER, ter_of_sums),
    **{name: partial(rouge, name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    "exact_match": exact_match,
    "accuracy": exact_match,  # as classification calls it
    "macro_f1": macro_f1,
    "token_f1": token_f1,
    "edit_similarity": edit_similarity,
    "json_valid": json_valid,
    "json_f1": json_f1,
    "number_accuracy": number_accuracy,
    "length_ratio": partial(corpus, BLEU, length_ratio_of_sums),
    "copy_rate": copy_rate,
    "repetition_rate": repetition_rate,
    "loss": loss,
    "bits_per_byte": bits_per_byte,
}
# Metrics of references under the model.
MODEL_METRICS = frozenset({"loss", "bits_per_byte"})
_NO_WIDTH = 1e-9  # but for rounding
_NEEDED: dict[str, Callable[[References], object]] = {
    "json_valid": json_sources,
    "json_f1": json_sources,
    "number_accuracy": number_sources,
}
