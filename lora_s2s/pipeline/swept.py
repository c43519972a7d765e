"""What a sweep found: the trials with intervals on the validation data, the best as a recipe, and
the page. Heavy to import.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_s2s.console import counted, say
from lora_s2s.data.prepared import open_prepared
from lora_s2s.evaluation.measured import Measured
from lora_s2s.evaluation.metrics import Difference, Score, compare, scores_of
from lora_s2s.files import write_text
from lora_s2s.pipeline import html
from lora_s2s.pipeline.study import COMPLETE, SHARES, TrialRecord, Trials
from lora_s2s.pipeline.trial_scores import scored_sources
from lora_s2s.pipeline.trials import Setup
from lora_s2s.recipe.catalogue import schema_line
from lora_s2s.recipe.load import load_recipe, with_overrides
from lora_s2s.recipe.schema import SECTIONS, Recipe
from lora_s2s.recipe.space import Setting, words_of
from lora_s2s.recipe.written import Decision, commented_recipe
from lora_s2s.reports.sweep_page import (
    SweepEntry,
    TrialEntry,
    render_sweep,
    sweep_cells,
    sweep_heads,
)

BEST, PAGE = "best.yaml", "report.html"


@dataclass(frozen=True)
class SweptTrial:
    """A trial of a sweep.

    Attributes:
        settings: the values of the varied keys; of the first trial, ``number`` 0, the recipe's own.
        given: as they were given; none to the first trial.
        state: ``complete``, ``stopped`` after a share of its steps, since others were better,
            ``failed`` or ``running``, where time was up.
        share: of its steps, when it was scored last.
        value: its validation score there.
        score: with its interval over the validation sources, of a complete trial.
        difference: to the first trial, on the same sources.
        adapter: of a complete trial.
    """

    number: int
    settings: dict[str, object]
    given: Mapping[str, Setting]
    state: str
    share: float
    value: float | None
    seconds: float
    problem: str
    score: Score | None = None
    difference: Difference | None = None
    adapter: Path | None = None

    def to_json(self) -> TrialEntry:
        """An entry of ``trials`` in ``sweep --json``."""
        return {
            "trial": self.number,
            "settings": self.settings,
            "state": self.state,
            "share": round(self.share, 4),
            "value": self.value,
            "seconds": self.seconds,
            "problem": self.problem or None,
            "score": None if self.score is None else self.score.to_json(),
            "difference": None if self.difference is None else self.difference.to_json(),
            "adapter": None if self.adapter is None else str(self.adapter),
        }


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        best: the trial with the best validation score.
        recipe: the best trial's recipe, which ``train`` takes.
        trials: in the order in which they began.
        metric: what decided.
        importance: of each varied key, as shares; empty for a few trials, or a single key.
        report: the page.
    """

    best: SweptTrial
    recipe: Path
    trials: Sequence[SweptTrial] = field(repr=False)
    metric: str
    importance: Mapping[str, float]
    report: Path

    def to_dict(self) -> SweepEntry:
        """The object of ``sweep --json``."""
        return {
            "best": self.best.to_json(),
            "recipe": str(self.recipe),
            "trials": [trial.to_json() for trial in self.trials],
            "metric": self.metric,
            "importance": dict(self.importance),
            "report": str(self.report),
        }

    def _repr_html_(self) -> str:
        entries = [trial.to_json() for trial in self.trials]
        return html.swept(str(self.recipe), sweep_heads(entries), sweep_cells(entries))


def swept(setup: Setup, trials: Trials, best: TrialRecord) -> Sweep:
    """Measures the complete trials, writes the best as a recipe, and the page."""
    records = trials.records()
    complete = [one for one in records if one.state == COMPLETE]
    say(f"measuring {counted(len(complete), 'complete trial')} on the validation data")
    prepared = open_prepared(setup.data, reused=True)
    measured = {one.number: scored_sources(setup, one, prepared) for one in complete}
    entries = [_entry(setup, one, measured) for one in records]
    importance = trials.importance()
    winner = next(one for one in entries if one.number == best.number)
    recipe = _write_best(setup, winner, len(entries), importance)
    sweep = Sweep(winner, recipe, entries, setup.goal.score, importance, setup.folder / PAGE)
    varied = {one.key: str(one) for one in setup.space}
    write_text(sweep.report, render_sweep(str(setup.recipe.output.name), sweep.to_dict(), varied))
    return sweep


def _entry(setup: Setup, trial: TrialRecord, measured: Mapping[int, Measured]) -> SweptTrial:
    recipe, number = setup.recipe_of(trial), trial.number
    own = measured.get(number)
    score = None if own is None else scores_of({"": own})[""]
    difference = None
    if own is not None and number and 0 in measured:
        difference = compare({"": own}, {"": measured[0]})[""]
    return SweptTrial(
        number=number,
        settings={one.key: _value(recipe, one.key) for one in setup.space},
        given=trial.settings,
        state=trial.state,
        share=SHARES[len(trial.scores) - 1] if trial.scores else 0.0,
        value=trial.scores[-1] if trial.scores else None,
        seconds=trial.seconds,
        problem=trial.problem,
        score=score,
        difference=difference,
        adapter=setup.adapter_of(trial) if own is not None else None,
    )


def _value(recipe: Recipe, key: str) -> object:
    section, _, field_name = key.partition(".")
    return getattr(getattr(recipe, section), field_name)


def _write_best(
    setup: Setup, best: SweptTrial, count: int, importance: Mapping[str, float]
) -> Path:
    """Writes the best trial's recipe, with what was varied in its comments."""
    name, path = str(setup.recipe.output.name), setup.folder / BEST
    value = "none" if best.value is None else f"{best.value:.4f}"
    lines = [
        schema_line(),
        f"Trial {best.number}: {setup.goal.score} {value} after {best.share:.0%} of its steps.",
        "Keys without a comment are those of the recipe that was varied.",
        "All trials have one seed: with another, their order can differ.",
    ]
    decisions = [*_decisions(setup, best, count, importance)]
    decisions.append(Decision("output.name", f"{name}-best", "not to replace another adapter"))
    title = f"The best of {counted(count, 'trial')} of {name}."
    write_text(path, commented_recipe(title, lines, decisions, command="sweep"))
    load_recipe(str(path))  # what was written is what was meant, or an error names the line
    return path


def _decisions(
    setup: Setup, best: SweptTrial, count: int, importance: Mapping[str, float]
) -> Iterator[Decision]:
    """Every key of the best trial's recipe but its place; why, of those that were varied."""
    recipe = with_overrides(setup.recipe, words_of(best.given))
    varied = {one.key: one for one in setup.space}
    for section, kind in SECTIONS.items():
        values = getattr(recipe, section).model_dump(mode="json", exclude_unset=True)
        for key in kind.model_fields if section != "output" else ():
            full = f"{section}.{key}"
            if full in varied:
                weight = f"; importance {importance[full]:.2f}" if full in importance else ""
                reason = f"the best of {counted(count, 'trial')} over {varied[full]}{weight}"
                yield Decision(full, best.settings[full], reason)
            elif key in values:
                yield Decision(full, values[key], "")
