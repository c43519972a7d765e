"""The base of a starter recipe: chosen or named, its lengths, and what it takes on a machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lora_s2s.data.limits import CAPS
from lora_s2s.data_report import DataReport
from lora_s2s.errors import ResourceError, UsageError, nearest
from lora_s2s.hub import is_local
from lora_s2s.machine import sized
from lora_s2s.models.known_bases import KNOWN
from lora_s2s.pipeline.base_choice import (
    Machine,
    Need,
    Weighed,
    choose_size,
    fits,
    needed,
    sizes_known,
)
from lora_s2s.pipeline.file_facts import FileFacts
from lora_s2s.pipeline.plan_base import PlannedBase
from lora_s2s.pipeline.plan_data import known_data, token_counts
from lora_s2s.pipeline.planned import Rows
from lora_s2s.recipe.bases import (
    BUNDLED,
    Base,
    Traits,
    bases_here,
    family_for,
    known_base,
    sizes_of,
)
from lora_s2s.recipe.defaults import Facts, Lengths
from lora_s2s.recipe.languages import NLLB_CODES, language_code
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.written import Ask, Decision, asked

Counts = npt.NDArray[np.int64]
ANSWERED = "your answer"
HELD_OUT = 200  # sources, on which a score is worth its interval
_LEAST_FRACTION, _MOST_FRACTION = 0.05, 0.2
_WHOLE = 100_000  # rows, up to which the data is prepared to count them
_CHARACTERS, _UNKNOWN_SIZE = 4.0, 250e6  # of a base that the table lacks
_SIZE = (
    "its size: the largest whose run fits into memory and takes at most 10 minutes on a CPU, an "
    "hour on a GPU; else the smallest"
)


@dataclass(frozen=True)
class Starting:
    """What is known when decisions begin.

    Attributes:
        recipe: what the user said, over defaults; the base is ``demo`` where none was named.
        said: the keys that the user named, and how.
        facts: of the files.
        machine: where training will run.
        built: the recipe of decisions.
        report, lengths: of the prepared data, and tokens of its training rows by side; None where
            they are too many to prepare them here.
    """

    recipe: Recipe
    said: Mapping[str, str]
    facts: FileFacts
    machine: Machine
    built: Callable[[Sequence[Decision]], Recipe]
    report: DataReport | None = None
    lengths: Mapping[str, Counts] | None = None

    @property
    def fraction(self) -> float:
        """The fraction of sources to hold out."""
        data = self.recipe.data
        if "data.validation_fraction" in self.said:
            return data.validation_fraction
        if data.validation or "validation" in self.facts.others:
            return 0.0
        return min(max(HELD_OUT / self.facts.rows, _LEAST_FRACTION), _MOST_FRACTION)

    def rows(self, split: str) -> int:
        """How many rows a split has, as ``prepare`` counts them, or about."""
        if self.report is not None:
            return self.report["splits"].get(split, 0)
        if split in self.facts.others:
            return self.facts.others[split][1]
        held_out = round(self.facts.rows * self.fraction)
        return {"train": self.facts.rows - held_out, "validation": held_out}.get(split, 0)

    def counted(self, decisions: Sequence[Decision]) -> Starting:
        """The same with what ``prepare`` finds in the data by these decisions."""
        if self.facts.rows > _WHOLE:
            return self
        with known_data(self.built(decisions)) as (data, _):
            train = data.train
            lengths = {
                "source": np.array(train.source_lengths, int),
                "target": np.array(train.target_lengths, int),
            }
            return replace(self, report=data.manifest.report, lengths=lengths)


@dataclass(frozen=True)
class Chosen:
    """The base, what the data is in its tokens, and what it takes.

    Attributes:
        measured: the lengths were counted by the base's tokenizer, not estimated.
        need: None for a base of unknown size.
    """

    decisions: Sequence[Decision]
    name: str
    facts: Facts
    measured: bool
    need: Need | None
    counts: Mapping[str, Counts]


def choose_base(start: Starting, traits: Traits, ask: Ask | None) -> Chosen:
    """The base that the user named, or the one for the data and the machine.

    Args:
        ask: asks for the base, with the one that would be taken.

    Raises:
        ResourceError: the base that the user named does not fit even in 4 bits.
    """
    if "model.name" in start.said:
        named = Decision("model.name", start.recipe.model.name, start.said["model.name"])
        return _chosen(start, traits, named)
    rule = family_for(traits)
    weighed = [_weighed(start, base) for base in bases_here(rule.family) or sizes_of(rule.family)]
    (base, need), *larger = choose_size(weighed, start.machine)
    why = rule.why(traits)
    reason = f"{why}; takes {need} on {start.machine.name}"
    more = "\n".join((traits.evidence, rule.more, _SIZE, rule.weights))
    other = ""
    if larger:
        name = larger[0].base.name
        other = f"larger: {name}, {larger[0].need}: --set model.name={name}"
    decision = Decision("model.name", base.name, reason, more, other)
    if ask is not None:
        answer = asked(ask, f"Base model ({why})", base.name, _named_base)
        if answer != base.name:
            decision = Decision("model.name", answer, ANSWERED)
    return _chosen(start, traits, decision)


def plain_words(answer: str) -> str:
    """An instruction before each input."""
    if set("{}") & set(answer):
        raise UsageError("expected plain words before each input, without { and }")
    return answer.strip()


def _named_base(answer: str) -> str:
    """A base that is here, known, or a name of the hub."""
    names = [*KNOWN, BUNDLED.name]
    if not (answer in names or "/" in answer or is_local(answer, None)):
        raise UsageError(f"no base '{answer}'{nearest(answer, names)}: a hub id, a folder or demo")
    return answer


def _weighed(start: Starting, base: Base) -> Weighed:
    counts = _estimated(start.facts, base.characters)
    recipe = _with(start.recipe, "model", name=base.name)
    known = sizes_known(recipe.model)
    facts = _facts(start, counts, base.parameters if known is None else known.parameters)
    return Weighed(base, needed(recipe, known, facts, _rows(counts, facts), start.machine))


def _chosen(start: Starting, traits: Traits, base_decision: Decision) -> Chosen:
    """The decisions on a base, its lengths counted if its tokenizer is here."""
    name = str(base_decision.value)
    recipe, known = _with(start.recipe, "model", name=name), known_base(name)
    decisions = [base_decision]
    languages = languages_of(start, traits, name)
    decisions += languages
    codes = {decision.key.partition(".")[2]: str(decision.value) for decision in languages}
    here = is_local(name, recipe.model.revision)
    counts: Mapping[str, Counts]
    if not here:
        counts = _estimated(start.facts, known.characters if known else _CHARACTERS)
    elif start.lengths is not None and name == start.recipe.model.name:
        counts = start.lengths
    else:
        texts = start.facts.sources, start.facts.targets
        tokens = token_counts(*texts, recipe.model, **codes)
        counts = {side: np.array(lengths) for side, lengths in tokens.items()}
    base = sizes_known(recipe.model)
    parameters = base.parameters if base else known.parameters if known else None
    facts = _facts(start, counts, parameters or _UNKNOWN_SIZE)
    need = None
    if parameters:
        rows = _rows(counts, facts)
        need = needed(recipe, base, facts, rows, start.machine)
        if not fits(need, start.machine) and "model.quantization" not in start.said:
            decisions += _four_bits(recipe, base, facts, rows, start.machine)
    return Chosen(decisions, name, facts, here, need, counts)


def _four_bits(
    recipe: Recipe, base: PlannedBase | None, facts: Facts, rows: Rows, machine: Machine
) -> list[Decision]:
    """4 bits, and recomputed activations one row at a time where that is not enough."""
    stored = _with(recipe, "model", quantization="nf4")
    need = needed(stored, base, facts, rows, machine)
    quantized = Decision("model.quantization", "nf4", f"to fit into {machine}: {need}")
    if fits(need, machine):
        return [quantized]
    longest = facts.source.longest + facts.target.longest
    tokens = 64 * -(-min(longest, CAPS["source"] + CAPS["target"]) // 64)
    least = {"gradient_checkpointing": True, "tokens_per_batch": tokens}
    need = needed(_with(stored, "training", **least), base, facts, rows, machine)
    if need.memory > machine.memory:
        raise ResourceError(
            f"{recipe.model.name} does not fit into {machine} even in 4 bits: it takes "
            f"{sized(need.memory)}",
            hint="omit the base to have one chosen, or name the GPU that will train: --gpu-memory "
            "24GB",
        )
    why = f"to fit into {machine}: {need}"
    return [quantized, *(Decision(f"training.{key}", value, why) for key, value in least.items())]


def _with(recipe: Recipe, section: str, **changes: object) -> Recipe:
    changed = getattr(recipe, section).model_copy(update=changes)
    return recipe.model_copy(update={section: changed})


def _rows(counts: Mapping[str, Counts], facts: Facts) -> Rows:
    sources, targets = (np.minimum(counts[side], most) for side, most in CAPS.items())
    return Rows(sources, targets, facts.validation_tokens)


def languages_of(start: Starting, traits: Traits, name: str) -> list[Decision]:
    """The languages' codes, if the base needs them."""
    if "nllb" not in name.lower() or not traits.in_nllb or start.facts.languages is None:
        return []
    return [
        Decision(f"data.{side}_language", NLLB_CODES[language_code(column)], "NLLB's code")
        for side, column in zip(CAPS, start.facts.languages, strict=True)
    ]


def _estimated(facts: FileFacts, characters: float) -> dict[str, Counts]:
    sides = {"source": facts.sources, "target": facts.targets}
    return {
        side: np.array([len(text) / characters + 1 for text in texts], int)
        for side, texts in sides.items()
    }


def _facts(start: Starting, counts: Mapping[str, Counts], parameters: float) -> Facts:
    """The sample's lengths for all rows, as ``recipe/defaults.py`` decides by them."""
    rows = start.rows("train") or 1
    means = {side: float(lengths.mean()) for side, lengths in counts.items()}
    source, target = (_lengths(counts[side], rows) for side in ("source", "target"))
    return Facts(
        rows=rows,
        source=source,
        target=target,
        distinct_targets=len(set(start.facts.targets)),
        validation_tokens=round(start.rows("validation") * sum(means.values())),
        parameters=round(parameters),
        device=start.machine.device.kind,
    )


def _lengths(tokens: Counts, rows: int) -> Lengths:
    p50, p95, p99, longest = (int(x) for x in np.percentile(tokens, (50, 95, 99, 100)))
    return Lengths(round(float(tokens.mean()) * rows), p50, p95, p99, longest)
