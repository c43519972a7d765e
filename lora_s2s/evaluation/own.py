"""A user's own metric: ``module:function``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import numpy as np

from lora_s2s.errors import DataError
from lora_s2s.evaluation.measured import RowScores, Scale
from lora_s2s.evaluation.texts import Texts, reference_count
from lora_s2s.examples.custom import user_function


def own_metric(name: str, texts: Texts) -> RowScores:
    """The mean of a user's function over sources, in the function's own unit.

    Args:
        name: ``module:function``. The function takes an answer and the list of its references,
            and the source too if it has a third parameter; it returns a number, or None where the
            source does not count. Lower is better if it has a true attribute ``lower_is_better``.
        texts: what it is called with.

    Raises:
        UsageError: there is no such function.
        DataError: it fails, or returns something else.
    """
    function = user_function(name, "metric")
    third = len(inspect.signature(function).parameters) > 2
    sources: Sequence[str | None] = texts.sources or [None] * len(texts.predictions)
    values = np.full(len(texts.predictions), math.nan)
    for place, ((text, several), source) in enumerate(zip(texts.pairs, sources, strict=True)):
        where = f"source {place + 1}"
        try:
            value = function(text, list(several), *([source] if third else []))
            number = math.nan if value is None else float(value)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            problem = f"the metric {name} failed: {type(error).__name__}: {error}"
            raise DataError(problem, where=where) from error
        if value is not None and not math.isfinite(number):
            problem = f"the metric {name} returned {value!r}; expected a finite number or None"
            raise DataError(problem, where=where)
        values[place] = number
    if np.isnan(values).all():
        raise DataError(f"the metric {name} returned None for every source")
    signature = f"{reference_count(texts.references)}|own:{name}"
    return RowScores(signature, values, unit=1.0, scale=own_scale(name))


def own_scale(name: str) -> Scale:
    """The values of a user's function: any, in its own unit."""
    lower = getattr(user_function(name, "metric"), "lower_is_better", False)
    return Scale(-math.inf, math.inf, "lower" if lower else "higher")
