"""Confidence intervals and paired tests over sources; ``benchmarks/significance.py`` measures their
coverage and error rates.

Legend: N sources, D sources on which two systems differ, R random draws or resamples. Scores are
fractions (0 to 1) or points; every function accepts both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Swaps = NDArray[np.bool_]
Interval = tuple[float, float]

SEED = 12345
DRAWS = 10_000
# As many as sacrebleu's paired bootstrap takes.
RESAMPLES = 1_000
# Up to this many differing sources all sign patterns are enumerated: 2^13, as mirrored ones are
# equal.
_MOST_ENUMERATED = 14
_ELEMENTS_AT_ONCE = 4_000_000
# Below this many sources, intervals and tests are reported as unreliable.
ENOUGH_SOURCES = 20
# From this many sources on, tests of proportions use the mid-p value: the exact one rejects too
# rarely (2 to 3 % at a level of 5 %).
_MID_P_FROM = 30
_Z = 1.959963984540054
# The 80 % quantile of the normal distribution: how often a difference of the smallest size that is
# called detectable is significant.
_Z_POWER = 0.8416212335729143
# 97.5 % quantiles of Student's t with 1 to 9 degrees of freedom; from 10 on, a series is exact to
# four digits.
_T = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157)
# The fraction of the sample's skewness that is corrected for, chosen by simulation: for bounded
# scores, the errors of skewness and mean are correlated, and full correction is too much.
_SKEWNESS_SHARE = 0.5
_TINY = 1e-12
_SMALLEST_P = 1e-300


@dataclass(frozen=True)
class PairedTest:
    """A two-sided p-value, and the test's name with its parameters, for the signature."""

    p_value: float
    name: str


def smallest_p(sources: int) -> float:
    """The smallest possible two-sided p-value of a test on ``sources`` pairs."""
    return max(_SMALLEST_P, min(1.0, 2.0 ** (1 - sources)))


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t (from 10 degrees of freedom on by Abramowitz and Stegun
    26.7.5).
    """
    if degrees < 1:
        raise ValueError("Student's t needs at least one degree of freedom")
    if degrees <= len(_T):
        return _T[degrees - 1]
    z, v = _Z, degrees
    first = (z**3 + z) / (4 * v)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return z + first + second + third


def wilson_interval(successes: float, sources: int) -> Interval:
    """Wilson's 95 % score interval of a proportion (0 to 1)."""
    total = sources + _Z**2
    centre = (successes + _Z**2 / 2) / total
    half = _Z / total * math.sqrt(successes * (sources - successes) / sources + _Z**2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_proportions_interval(better: int, worse: int, sources: int) -> tuple[Interval, str]:
    """The 95 % interval of a difference of paired proportions, −1 to 1, and its name.

    From 30 sources on by Bonett and Price (2012), who add an answer to each kind of difference;
    with fewer that is too wide (97.5 % where both are nearly always right), so half an answer is
    added, as by Agresti and Min (2005).

    Args:
        better: how many sources only the first system answers correctly.
        worse: how many only the second one does.
        sources: the number of all sources.
    """
    few = sources < _MID_P_FROM
    more, name = (0.5, "agresti-min") if few else (1.0, "bonett-price")
    up, down = (better + more) / (sources + 2), (worse + more) / (sources + 2)
    half = _Z * math.sqrt((up + down - (up - down) ** 2) / (sources + 2))
    return (max(-1.0, up - down - half), min(1.0, up - down + half)), name


def mean_interval(values: Values) -> Interval | None:
    """The 95 % interval of a mean: Student's t, widened on the side of the skew.

    On each side the wider of the plain interval and the one by Hall's cubic transformation (1992).
    Values may be jackknife pseudo-values of a smooth score. None for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return None
    mean, deviations = float(values.mean()), values - values.mean()
    spread, biased = float(values.std(ddof=1)), float(values.std())
    if spread < _TINY:
        return mean, mean
    quantile, root = t_quantile(count - 1), math.sqrt(count)
    skewness = _SKEWNESS_SHARE * float((deviations**3).mean()) / biased**3
    upper, lower = (_untransformed(sign * quantile, skewness, count) for sign in (-1, 1))
    error = spread / root
    return mean - error * max(quantile, lower), mean + error * max(quantile, -upper)


def _untransformed(quantile: float, skewness: float, count: int) -> float:
    """Hall's transformation inverted: the studentised mean whose transform is ``quantile``."""
    if abs(skewness) < 1e-6:
        return quantile
    root = math.sqrt(count)
    inner = 1 + skewness * (quantile / root - skewness / (6 * count))
    return 3 * root / skewness * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)


def jackknife_interval(value: float, without_each: Values) -> Interval | None:
    """The 95 % interval of any smooth score.

    Args:
        value: the score of all sources.
        without_each: (N,) the score without source i.
    """
    count = len(without_each)
    if count < 2:
        return None
    pseudo = count * value - (count - 1) * without_each
    ends = mean_interval(pseudo)
    if ends is None:
        return None
    shift = value - float(pseudo.mean())
    return ends[0] + shift, ends[1] + shift


def sign_flip_test(differences: Values) -> PairedTest:
    """Tests whether paired differences are symmetric about zero.

    Without a real difference, a source's two scores are exchangeable, so the sum is compared with
    sums under other signs: exactly if all differences have one size (a proportion) or are few, else
    by random draws, counting the observed sum itself so that no p-value is zero.

    Args:
        differences: (N,) first system's score minus the second's, per source.
    """
    total, differing = len(differences), differences[np.abs(differences) > _TINY]
    count = len(differing)
    if count == 0:
        return PairedTest(1.0, "sign-flip[exact]")
    sizes, observed = np.abs(differing), abs(float(differing.sum()))
    # A tolerance, so that rounding does not make an equal sum smaller.
    reached = observed - 1e-9 * float(sizes.sum())
    if float(sizes.max() - sizes.min()) < 1e-9 * float(sizes.max()):
        mid = total >= _MID_P_FROM
        p_value = _binomial_p(int((differing > 0).sum()), count, mid=mid)
        return PairedTest(max(p_value, _SMALLEST_P), f"sign-flip[exact{',mid-p' if mid else ''}]")
    if count <= _MOST_ENUMERATED:
        sums = _all_signs(count) @ differing
        return PairedTest(float((np.abs(sums) >= reached).mean()), "sign-flip[exact]")
    hits = sum(
        int((np.abs(2.0 * (swaps @ differing) - differing.sum()) >= reached).sum())
        for swaps in _random_swaps(count)
    )
    return PairedTest((1 + hits) / (1 + DRAWS), f"sign-flip[{DRAWS}]|seed:{SEED}")


def swap_test(observed: float, count: int, swapped: Callable[[Swaps], Values]) -> PairedTest:
    """Paired approximate randomisation for corpus scores (Noreen 1989): swaps outputs per source.

    Args:
        observed: the difference of the two scores.
        count: D, the sources on which the systems' statistics differ; swapping others has no
            effect.
        swapped: maps (R, D) swaps to the (R,) differences after them.
    """
    if count == 0:
        return PairedTest(1.0, "paired-randomisation[exact]")
    reached = abs(observed) - 1e-9 * max(1.0, abs(observed))
    if count <= _MOST_ENUMERATED:
        distances = np.abs(swapped(_all_signs(count) > 0))
        return PairedTest(float((distances >= reached).mean()), "paired-randomisation[exact]")
    hits = sum(int((np.abs(swapped(swaps)) >= reached).sum()) for swaps in _random_swaps(count))
    return PairedTest((1 + hits) / (1 + DRAWS), f"paired-randomisation[{DRAWS}]|seed:{SEED}")


def bootstrap_test(
    observed: float,
    sources: int,
    resampled: Callable[[Values], Values],
    *,
    resamples: Iterable[Values] | None = None,
) -> PairedTest:
    """Paired bootstrap (Efron and Tibshirani 1993, 16.4; Koehn 2004), two-sided, on the resamples
    of sacrebleu's.

    The share of resamples whose difference is as far from their mean as the observed one from zero;
    equal distances count by half. Resamples of few sources spread too little: their distances are
    stretched to Student's t, and no p-value is below the smallest of :func:`smallest_p`. sacrebleu
    compares ``|difference| - mean(|difference|)`` instead,
    which rejects twice as often as its level says (``benchmarks/significance.py``).

    Args:
        observed: the difference of the two scores.
        sources: N.
        resampled: maps how often each source is drawn, (R, N), to the (R,) differences.
        resamples: blocks of (R, N) in place of sacrebleu's.
    """
    name = f"paired-bootstrap[{RESAMPLES}]|seed:{SEED}"
    tolerance = 1e-9 * max(1.0, abs(observed))
    if sources < 2 or abs(observed) <= tolerance:
        return PairedTest(1.0, name)
    blocks = _resamples(sources) if resamples is None else resamples
    differences = np.concatenate([resampled(counts) for counts in blocks])
    stretched = math.sqrt(sources / (sources - 1)) * t_to_z(sources - 1)
    defined = np.isfinite(differences)
    if not defined.any():
        return PairedTest(1.0, name)
    distances = stretched * np.abs(differences - differences[defined].mean())
    # A resample without a score counts against a difference.
    beyond = float((~(distances <= abs(observed) + tolerance)).sum())
    equal = float((np.abs(distances - abs(observed)) <= tolerance).sum())
    p_value = (1 + beyond + equal / 2) / (1 + RESAMPLES)
    return PairedTest(max(p_value, smallest_p(sources)), name)


def detectable_difference(without_each: Values) -> float | None:
    """The smallest true difference that a two-sided test at 5 % finds significant with 80 % power.

    Computed from the spread of the sources' differences, as observed; None if they do not differ.

    Args:
        without_each: (N,) the difference without source i.
    """
    count = len(without_each)
    if count < 2:
        return None
    error = float(without_each.std(ddof=1)) * (count - 1) / math.sqrt(count)
    return detectable_of(error, count - 1)


def detectable_of(error: float, degrees: int) -> float | None:
    """As :func:`detectable_difference`, of a difference's standard error."""
    if degrees < 1 or not _TINY < error < math.inf:
        return None
    return (t_quantile(degrees) + _Z_POWER) * error


def t_to_z(degrees: int) -> float:
    """How much wider Student's t is than the normal distribution at 97.5 %."""
    return t_quantile(degrees) / _Z


def resamples_within(groups: Sequence[NDArray[np.int64]], sources: int) -> Iterator[Values]:
    """How often each source is drawn by each resample, in blocks of (R, N): as many of a group as
    it has, drawn from itself.

    Args:
        groups: the places of each group's sources.
        sources: N.
    """
    for generator, size in _blocks(RESAMPLES, sources):
        counts = np.zeros((size, sources))
        for group in groups:
            shares = np.full(len(group), 1 / len(group))
            counts[:, group] = generator.multinomial(len(group), shares, size=size)
        yield counts


def _blocks(draws: int, count: int) -> Iterator[tuple[np.random.Generator, int]]:
    """Yields the generator of all draws, and how many of them fit a block of (R, count)."""
    generator = np.random.default_rng(SEED)
    rows = max(1, min(draws, _ELEMENTS_AT_ONCE // count))
    for start in range(0, draws, rows):
        yield generator, min(rows, draws - start)


def _resamples(sources: int) -> Iterable[Values]:
    """How often each source is drawn by each resample, in blocks of (R, N): those that sacrebleu
    draws with this seed.
    """
    fits = sources * RESAMPLES <= _ELEMENTS_AT_ONCE
    return _kept_resamples(sources) if fits else _drawn(sources)


@lru_cache(maxsize=2)
def _kept_resamples(sources: int) -> list[Values]:
    return list(_drawn(sources))


def _drawn(sources: int) -> Iterator[Values]:
    for generator, size in _blocks(RESAMPLES, sources):
        drawn = generator.integers(0, sources, (size, sources))
        keys = (drawn + sources * np.arange(size)[:, None]).ravel()
        counts = np.bincount(keys, minlength=size * sources)
        yield counts.reshape(size, sources).astype(np.float64)


def _binomial_p(successes: int, count: int, *, mid: bool) -> float:
    """Two-sided p-value of ``successes`` of ``count`` fair coins; ``mid`` halves the weight of
    equally extreme outcomes.
    """
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    chances = np.exp(factorials[-1] - factorials - factorials[::-1] - count * math.log(2))
    distances = np.abs(2 * np.arange(count + 1) - count)
    observed = abs(2 * successes - count)
    beyond = float(chances[distances > observed].sum())
    equal = float(chances[distances == observed].sum())
    # A tie at zero is a single outcome and is not halved.
    return min(1.0, beyond + (0.5 * equal if mid and observed else equal))


def _all_signs(count: int) -> Values:
    """All sign patterns of ±1, (2^(count − 1), count), without mirrored ones, whose sums are
    equally far from zero.
    """
    bits = np.arange(2 ** (count - 1))[:, None] >> np.arange(count)[None, :]
    return np.asarray(1.0 - 2.0 * (bits & 1), dtype=np.float64)


def _random_swaps(count: int) -> Iterator[Swaps]:
    """Yields ``DRAWS`` random patterns in blocks of (R, count), always the same ones."""
    for generator, size in _blocks(DRAWS, count):
        bits = np.unpackbits(np.frombuffer(generator.bytes(-(-size * count // 8)), dtype=np.uint8))
        yield bits[: size * count].reshape(size, count).astype(np.bool_)
