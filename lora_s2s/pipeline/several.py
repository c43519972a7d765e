"""Several models on the same rows: each one's evaluation, their differences to the first, and the
spread over seeds of one recipe. Heavy to import.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.notes import BASE, cut_answers
from lora_s2s.files import json_text
from lora_s2s.pipeline.adapters import recipe_of
from lora_s2s.pipeline.evaluate import Finished, Rival, scored
from lora_s2s.pipeline.opponent import Opponent, shown_name
from lora_s2s.pipeline.scored_data import ScoredData
from lora_s2s.pipeline.scores import Asked, Scores
from lora_s2s.recipe.layers import Overrides

_Kept = TypeVar("_Kept")


@dataclass(frozen=True)
class Spread:
    """A metric over runs of one recipe: mean, and standard deviation (n − 1) over their seeds."""

    mean: float
    sd: float

    def to_json(self) -> dict[str, float]:
        """``{"mean", "sd"}``."""
        return {"mean": self.mean, "sd": self.sd}


@dataclass(frozen=True)
class Seeds:
    """Runs whose recipes differ in the seed and the name alone."""

    models: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, Spread]

    def to_json(self) -> dict[str, object]:
        """An entry of ``seeds`` in ``eval --json``."""
        return {
            "models": list(self.models),
            "seeds": list(self.seeds),
            "metrics": {name: spread.to_json() for name, spread in self.metrics.items()},
        }

    def __str__(self) -> str:
        values = ", ".join(
            f"{name} {spread.mean:.2f} ± {spread.sd:.2f}" for name, spread in self.metrics.items()
        )
        return f"{len(self.seeds)} seeds of one recipe ({', '.join(self.models)}): {values} (sd)"


@dataclass(frozen=True)
class Several:
    """Scores by model, in the order given; each but the first is compared with the first."""

    scores: dict[str, Scores]
    seeds: tuple[Seeds, ...]

    def notes(self, name: str) -> Iterator[str]:
        """What to report of a model: that answers of the first or the base were cut once."""
        scores, first = self.scores[name], next(iter(self.scores.values()))
        other = scores.against
        repeated = other and cut_answers(other.unstopped, scores.n, f" of {other.name}")
        for note in (scores.enough, *scores.notes):
            again = scores is not first and note in first.notes and f" of {BASE} " in str(note)
            if note and not again and not (repeated and note.startswith(repeated)):
                yield note

    def to_dict(self) -> dict[str, Any]:
        """The object of ``eval A B … --json``: that of the first model, and of each in
        ``models``.
        """
        entries = [{"name": name, **scores.to_dict()} for name, scores in self.scores.items()]
        first = next(iter(self.scores.values())).to_dict()
        return {**first, "models": entries, "seeds": [group.to_json() for group in self.seeds]}


def score_several(models: Sequence[str], asked: Asked, overrides: Overrides) -> Several:
    """Scores models one after another on the same rows.

    Raises:
        UsageError: an option that does not fit, or one model twice.
        DataError: they were scored on different data.
    """
    names = [shown_name(model) for model in models]
    names = names if len(set(names)) == len(names) else list(models)
    if len(set(names)) < len(names):
        raise UsageError("a model is named twice", hint="name each model once")
    if asked.predictions is not None or asked.against is not None:
        option = "--against" if asked.predictions is None else "--from"
        raise UsageError(f"{option} is for one model; several are compared with the first")
    recipes = [recipe_of(model, overrides) for model in models]  # before hours go into the first
    done: list[Finished] = []
    for model, name in zip(models, names, strict=True):
        out = asked.out / Path(name).name if asked.out else None
        rival = _rival(names[0], done[0]) if done else None
        done.append(scored(model, replace(asked, out=out), overrides, rival=rival))
    for finished in done:
        finished.answers.remove()
    scores = {name: finished.scores for name, finished in zip(names, done, strict=True)}
    settings = [recipe.model_dump(mode="json") for recipe in recipes]
    own = [(Path(model).expanduser() / "recipe.yaml").is_file() for model in models]
    return Several(scores, tuple(seeds_of(scores, settings, own)))


def _rival(name: str, finished: Finished) -> Rival:
    """A model that was scored, for the comparison of another one's data."""
    sources = [row.source for row in finished.scores.rows]
    answers = dict(zip(sources, finished.answered.answers, strict=True))
    own = finished.answered.losses[0]
    losses = None if own is None else dict(zip(sources, own, strict=True))
    theirs = finished.data

    def on(data: ScoredData) -> Opponent:
        first_rows = data.first_rows()

        def looked_up(table: Mapping[str, _Kept], places: Sequence[int]) -> list[_Kept]:
            values = []
            for place in places:
                row = first_rows[place]
                other = theirs.rows[row] if row < len(theirs.rows) else -1
                source = theirs.sources[other] if other >= 0 else ""
                same = other >= 0 and set(theirs.references[other]) == set(data.references[place])
                if not same or source not in table:
                    raise DataError(
                        f"{name} was scored on other rows", hint="give the same --data FILE to all"
                    )
                values.append(table[source])
            return values

        return Opponent(
            name,
            partial(looked_up, answers),
            None if losses is None else partial(looked_up, losses),
        )

    return on


def seeds_of(
    scores: dict[str, Scores], settings: Sequence[dict[str, Any]], own: Sequence[bool]
) -> list[Seeds]:
    """The groups of models that share a recipe but for the seed.

    Args:
        settings: the models' recipes as JSON.
        own: whether a model has a recipe of its own.
    """
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, recipe, has_recipe in zip(scores, settings, own, strict=True):
        if has_recipe:
            training = {**recipe["training"], "seed": None}
            key = json_text({**recipe, "training": training, "output": None})
            groups.setdefault(key, []).append((name, recipe["training"]["seed"]))
    found = []
    for members in groups.values():
        names, seeds = zip(*members, strict=True)
        if len(set(seeds)) < 2:
            continue
        metrics = {}
        for metric in scores[names[0]].metrics:
            values = [scores[name].metrics[metric].value for name in names]
            metrics[metric] = Spread(statistics.fmean(values), statistics.stdev(values))
        found.append(Seeds(tuple(names), tuple(seeds), metrics))
    return found
