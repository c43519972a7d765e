"""The values of a starter recipe, each with its reason: what ``init`` decides from facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lora_s2s.console import counted, say, warn
from lora_s2s.data.limits import UNBOUNDED, choose_limits
from lora_s2s.errors import ResourceError
from lora_s2s.evaluation.choice import MetricChoice
from lora_s2s.hub import is_folder, is_local
from lora_s2s.pipeline.base_choice import (
    Machine,
    Need,
    Weighed,
    choose_size,
    fits,
    in_time,
    needed,
)
from lora_s2s.pipeline.file_facts import FileFacts, traits_of
from lora_s2s.readers.names import SOURCES, TARGETS, language_of, normalised
from lora_s2s.recipe.bases import (
    FLAN,
    Base,
    Traits,
    family_for,
    known_base,
    lost_to_t5,
    sizes_of,
)
from lora_s2s.recipe.defaults import Facts, Lengths, resolve
from lora_s2s.recipe.fields import AUTO
from lora_s2s.recipe.languages import NLLB_CODES, language_code
from lora_s2s.recipe.schema import Recipe
from lora_s2s.recipe.written import Decision
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.loading import load_tokenizer

Ask = Callable[[str, str], str]
Counts = npt.NDArray[np.int64]
_HELD_OUT, _LEAST_FRACTION, _MOST_FRACTION = 200, 0.05, 0.2
_DECODE_SECONDS, _FEWEST_SCORED = 300, 200
_ONE_LOST_IN = 1000  # targets, from which on data.lossless_text adds tokens
_SAID = "given with --set"
_RULES = "lora_s2s/recipe/defaults.py, from benchmarks/results/defaults-cpu.json"


@dataclass(frozen=True)
class Starting:
    """What is known when decisions begin.

    Attributes:
        recipe: what the user said, over defaults; the base is ``demo`` where none was named.
        said: the keys that the user named.
        facts: of the files.
        machine: where training will run.
    """

    recipe: Recipe
    said: frozenset[str]
    facts: FileFacts
    machine: Machine

    @property
    def fraction(self) -> float:
        """The fraction of sources to hold out."""
        data = self.recipe.data
        if "data.validation_fraction" in self.said:
            return data.validation_fraction
        if data.validation or "validation" in self.facts.others:
            return 0.0
        return min(max(_HELD_OUT / self.facts.rows, _LEAST_FRACTION), _MOST_FRACTION)

    @property
    def scored(self) -> int:
        """How many rows ``eval`` will have."""
        others = self.facts.others
        if "test" in others or "validation" in others:
            return others.get("test", others.get("validation", ("", 0)))[1]
        return round(self.facts.rows * self.fraction)


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


def decide(start: Starting, ask: Ask | None = None) -> list[Decision]:
    """Every key of the recipe with its value and reason; those that the user named as given.

    Args:
        ask: asks for an instruction and the base, with what is taken otherwise.

    Raises:
        ResourceError: the base that the user named does not fit even in 4 bits.
    """
    metrics = start.facts.metrics()
    traits, evidence = traits_of(start.facts, metrics)
    data = [*_files(start), *_columns(start), *_template(start, ask)]
    chosen = _base(start, traits, evidence, ask)
    decisions = [
        *data,
        *chosen.decisions,
        *_limits(chosen),
        *_held_out(start),
        *_adapter(),
        *_training(start, chosen),
        *_evaluation(start, chosen, metrics),
        Decision("output.name", start.recipe.output.name, "the adapter's folder in adapters/"),
    ]
    return _as_said(start, decisions)


def _as_said(start: Starting, decisions: Sequence[Decision]) -> list[Decision]:
    values = start.recipe.model_dump(mode="json")
    said = {}
    for key in sorted(start.said):
        section, name = key.split(".")
        said[key] = Decision(key, values[section][name], _SAID)
    decided = [said.pop(decision.key, decision) for decision in decisions]
    return [*decided, *said.values()]


def _files(start: Starting) -> Iterator[Decision]:
    facts = start.facts
    left_out = f", {counted(facts.rejected, 'row')} left out" if facts.rejected else ""
    reason = f"{facts.rows:,} examples{left_out}"
    yield Decision("data.train", facts.train, reason)
    for split, (name, rows) in facts.others.items():
        yield Decision(f"data.{split}", name, f"of the same folder, read alike: {rows:,} examples")


def _columns(start: Starting) -> Iterator[Decision]:
    reading = start.facts.reading
    if reading.target_column is None:
        reason = "recognised by the keys of the first rows"
        if reading.format not in ("pairs", AUTO):
            yield Decision("data.format", reading.format, reason)
        return
    source, target = reading.source_column, reading.target_column
    unused = ", ".join(f"'{column.name}'" for column in reading.unused[:8])
    left_out = f"; not used: {unused}" if unused else ""
    if source is not None:
        yield Decision("data.source_column", source, f"the input: {_why(source)}{left_out}")
    yield Decision("data.target_column", target, f"the answer to learn: {_why(target)}")


def _why(column: str) -> str:
    if normalised(column) in (*SOURCES, *TARGETS):
        return "a usual name"
    other = "by its place, since its name is not a usual one"
    return "a language" if language_of(column) else other


def _template(start: Starting, ask: Ask | None) -> Iterator[Decision]:
    column = start.facts.reading.source_column
    free = column is not None and not set("{}") & set(column) and start.facts.languages is None
    if ask is None or not free or start.recipe.data.template is not None:
        return
    answer = ask("Instruction before each input, such as 'Summarize:' (none: press Enter)", "")
    if answer.strip():
        yield Decision("data.template", f"{answer.strip()} {{{column}}}", "your instruction")


def _base(start: Starting, traits: Traits, evidence: str, ask: Ask | None) -> Chosen:
    if "model.name" in start.said:
        return _chosen(start, traits, start.recipe.model.name, _SAID)
    rule = family_for(traits)
    weighed = [_weighed(start, base) for base in sizes_of(rule.family)]
    sized = choose_size(weighed, start.machine)
    note = f"; {sized.base.note}" if sized.base.note else ""
    reason = f"{rule.reason} ({evidence}). {sized.base.name} is {sized.reason}{note}"
    name = sized.base.name
    if ask is not None:
        answer = ask(f"Base model ({rule.reason})", name)
        name, reason = (answer, reason) if answer == name else (answer, "your choice")
    return _chosen(start, traits, name, reason)


def _weighed(start: Starting, base: Base) -> Weighed:
    counts = _estimated(start.facts, base.characters)
    facts = _facts(start, counts, base.parameters, len(set(start.facts.targets)))
    both = (
        needed(base.parameters, start.recipe, facts, start.machine, four_bits=four_bits)
        for four_bits in (False, True)
    )
    return Weighed(base, *both)


def _chosen(start: Starting, traits: Traits, name: str, reason: str) -> Chosen:
    """The decisions on a base, its lengths counted if its tokenizer is here."""
    model, known = start.recipe.model, known_base(name)
    decisions = [Decision("model.name", name, reason)]
    languages = _languages(start, traits, name)
    decisions += [Decision(f"data.{key}", code, "NLLB's code") for key, code in languages.items()]
    here = is_local(name, model.revision)
    if here:
        counts = _counted(start.facts, name, model.revision, languages)
    else:
        counts = _estimated(start.facts, known.characters if known else 4.0)
    parameters = known.parameters if known else _parameters_of(name)
    facts = _facts(start, counts, parameters or 250e6, len(set(start.facts.targets)))
    need = None
    if parameters:
        need = needed(parameters, start.recipe, facts, start.machine)
        if not fits(need, start.machine) and "model.quantization" not in start.said:
            decisions.append(_four_bits(start, name, parameters, facts))
    return Chosen(decisions, name, facts, here, need, counts)


def _four_bits(start: Starting, name: str, parameters: float, facts: Facts) -> Decision:
    need = needed(parameters, start.recipe, facts, start.machine, four_bits=True)
    if need.memory > start.machine.memory:
        raise ResourceError(
            f"{name} does not fit into {start.machine} even in 4 bits: it takes "
            f"{need.memory / 2**30:.1f} GiB",
            hint="omit the base to have one chosen, or name the GPU that will train: --gpu-memory "
            "24GB",
        )
    reason = f"4 bits, to fit into {start.machine}: about {need.memory / 2**30:.1f} GiB"
    return Decision("model.quantization", "nf4", reason)


def _languages(start: Starting, traits: Traits, name: str) -> dict[str, str]:
    if "nllb" not in name.lower() or not traits.in_nllb or start.facts.languages is None:
        return {}
    keys = ("source_language", "target_language")
    codes = [NLLB_CODES[language_code(column)] for column in start.facts.languages]
    return dict(zip(keys, codes, strict=True))


def _parameters_of(name: str) -> float | None:
    """The parameters of a folder's weights, at 4 bytes each; None if it is none."""
    if not is_folder(name):
        return None
    files = Path(name).expanduser().glob("*.safetensors")
    return sum(file.stat().st_size for file in files) / 4 or None


def _estimated(facts: FileFacts, characters: float) -> dict[str, Counts]:
    sides = {"source": facts.sources, "target": facts.targets}
    return {
        side: np.array([len(text) / characters + 1 for text in texts], int)
        for side, texts in sides.items()
    }


def _counted(
    facts: FileFacts, name: str, revision: str | None, languages: Mapping[str, str]
) -> dict[str, Counts]:
    tokenizer = load_tokenizer(name, revision, **languages)
    sides = {"source": (facts.sources, "text"), "target": (facts.targets, "text_target")}
    return {
        side: np.array([len(ids) + 1 for ids in encode_texts(texts, tokenizer, side=kind)])
        for side, (texts, kind) in sides.items()
    }


def _facts(
    start: Starting, counts: Mapping[str, Counts], parameters: float, distinct: int
) -> Facts:
    """The sample's lengths for all rows, as ``recipe/defaults.py`` decides by them."""
    rows = max(1, round(start.facts.rows * (1 - start.fraction)))
    means = {side: float(lengths.mean()) for side, lengths in counts.items()}
    source, target = (_lengths(counts[side], rows) for side in ("source", "target"))
    held_out = start.facts.others.get("validation", ("", start.facts.rows - rows))[1]
    return Facts(
        rows=rows,
        source=source,
        target=target,
        distinct_targets=distinct,
        validation_tokens=round(held_out * sum(means.values())),
        parameters=round(parameters),
        device=start.machine.device,
    )


def _lengths(tokens: Counts, rows: int) -> Lengths:
    p50, p95, p99, longest = (int(x) for x in np.percentile(tokens, (50, 95, 99, 100)))
    return Lengths(round(float(tokens.mean()) * rows), p50, p95, p99, longest)


def _limits(chosen: Chosen) -> Iterator[Decision]:
    histogram = {side: np.bincount(lengths) for side, lengths in chosen.counts.items()}
    limits = choose_limits(dict.fromkeys(histogram, AUTO), lambda: histogram, UNBOUNDED)
    how = f"{chosen.name}'s tokens" if chosen.measured else "estimated from characters"
    for side, lengths in chosen.counts.items():
        limit, points = limits[side].tokens, np.percentile(lengths, (50, 99, 100))
        half, most, longest = (f"{int(point):,}" for point in points)
        reason = (
            f"auto: about {limit:,}; half have up to {half}, 99 % {most}, the longest {longest}"
        )
        yield Decision(f"data.max_{side}_tokens", AUTO, f"{reason} ({how})")


def _held_out(start: Starting) -> Iterator[Decision]:
    if start.fraction:
        reason = (
            f"about {start.scored:,} of {start.facts.rows:,} examples, split by input; a score "
        )
        reason += f"on {_HELD_OUT} or more is worth its interval"
        yield Decision("data.validation_fraction", round(start.fraction, 3), reason)


def _adapter() -> Iterator[Decision]:
    reason = "LoRA on all linear layers: on every task measured within 5 % of the best setting "
    reason += "(benchmarks/results/defaults-cpu.json)"
    yield Decision("lora.target_modules", "all-linear", reason)
    yield Decision("lora.r", 16, "the rank of those runs")
    yield Decision("lora.alpha", 32, "twice the rank, as in those runs")


def _training(start: Starting, chosen: Chosen) -> Iterator[Decision]:
    given = start.recipe.training
    settled = resolve(start.recipe, chosen.facts).training
    millions = chosen.facts.parameters / 1e6
    base = f"a base of {millions:,.1f} M parameters"
    rate = f"auto: {settled.learning_rate:g} for {base} ({_RULES})"
    yield Decision("training.learning_rate", AUTO, rate)
    if given.max_steps is None:
        time = f"; takes {chosen.need} here" if chosen.need else ""
        passes = f"auto: {settled.epochs:g} × {chosen.facts.rows:,} rows{time}"
        yield Decision("training.epochs", AUTO, passes)
    if given.batch_size is None:
        tokens = f"auto: {settled.tokens_per_batch:,} tokens, at least the longest row"
        yield Decision("training.tokens_per_batch", AUTO, tokens)


def _evaluation(start: Starting, chosen: Chosen, metrics: MetricChoice) -> Iterator[Decision]:
    yield Decision("evaluation.metrics", list(metrics.metrics), metrics.reason)
    yield Decision("evaluation.max_new_tokens", AUTO, "auto: as long as the longest target")
    if chosen.need is None:
        return
    each, rows = chosen.need.decode, start.scored
    if each * rows <= _DECODE_SECONDS:
        reason = f"all {rows:,}: answering them takes about {in_time(max(1.0, each * rows))}"
        yield Decision("evaluation.limit", None, reason)
        return
    limit = max(_FEWEST_SCORED, round(_DECODE_SECONDS / each, -2))
    reason = f"a random sample of {rows:,}, answered in about {in_time(each * limit)}"
    yield Decision("evaluation.limit", int(limit), reason)


def notes_on(start: Starting, decisions: Sequence[Decision]) -> None:
    """Warns of what the user must know before training."""
    values = {decision.key: decision.value for decision in decisions}
    name = str(values["model.name"])
    known = known_base(name)
    if not is_local(name, start.recipe.model.revision):
        size = f" (about {4 * known.millions / 1000:.1f} GB)" if known else ""
        warn(
            f"{name} is not on this machine: train downloads it{size}; without network: --set "
            "model.name=demo, or a folder that holds a base"
        )
    targets = start.facts.targets
    lost = lost_to_t5(Counter(char for text in targets for char in set(text)))
    if known and known.family == FLAN and sum(lost.values()) * _ONE_LOST_IN >= len(targets):
        listed = " ".join(repr(char)[1:-1] for char in list(lost)[:12])
        say(
            f"T5's vocabulary lacks {listed}; its unused embedding rows write them, and are trained"
        )
