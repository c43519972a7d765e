"""The values of a starter recipe, each with its reason: what ``init`` decides from facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lora_s2s.console import say, warn
from lora_s2s.data.limits import KEYS, UNBOUNDED, choose_limits
from lora_s2s.evaluation.choice import LABEL_METRICS, MetricChoice
from lora_s2s.examples.causes import enough
from lora_s2s.hub import is_local, is_offline
from lora_s2s.pipeline.base_choice import in_time
from lora_s2s.pipeline.file_facts import traits_of
from lora_s2s.pipeline.prepare import counts
from lora_s2s.pipeline.starter_base import (
    ANSWERED,
    HELD_OUT,
    Chosen,
    Starting,
    choose_base,
    languages_of,
    plain_words,
)
from lora_s2s.readers.names import SOURCES, TARGETS, language_of, normalised
from lora_s2s.recipe.bases import FLAN, family_for, known_base, lost_to_t5
from lora_s2s.recipe.defaults import expected_steps, resolve
from lora_s2s.recipe.fields import AUTO
from lora_s2s.recipe.written import Ask, Decision, asked
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.lossless import beyond_reach

_DECODE_SECONDS, _FEWEST_SCORED = 300, 200
_MOST_EMPTY = 0.05  # of the rows
_LONG, _FEWEST_STEPS = 300, 100  # seconds of training, from which on a shorter run is named
_ONE_LOST_IN = 1000  # targets, from which on data.lossless_text adds tokens
_MEASURED = "benchmarks/results/defaults-cpu.json"
_RULES = f"lora_s2s/recipe/defaults.py, from {_MEASURED}"


def decide(start: Starting, ask: Ask | None = None) -> list[Decision]:
    """Every key of the recipe with its value and reason; those that the user named as given.

    Args:
        ask: asks for an instruction and the base, with what is taken otherwise.

    Raises:
        DataError: so many rows are unusable that preparing would stop.
        ResourceError: the base that the user named does not fit even in 4 bits.
    """
    metrics = start.facts.metrics()
    traits = traits_of(start.facts, metrics)
    read = [*_rejected(start), *_columns(start), *_template(start, ask)]
    read += languages_of(start, traits, start.recipe.model.name)
    start = start.counted([*_files(start), *read, *_held_out(start)])
    chosen = choose_base(start, traits, ask)
    decisions = [
        *_files(start),
        *read,
        *chosen.decisions,
        *_limits(start, chosen),
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
    for key, how in sorted(start.said.items()):
        section, name = key.split(".")
        said[key] = Decision(key, values[section][name], how)
    # What the base asks for comes first.
    first = {decision.key: decision for decision in reversed(decisions)}
    distinct = [decision for decision in decisions if decision is first[decision.key]]
    decided = [said.pop(decision.key, decision) for decision in distinct]
    order = list(values)  # of the sections, as in the file
    return sorted([*decided, *said.values()], key=lambda one: order.index(one.key.split(".")[0]))


def _files(start: Starting) -> Iterator[Decision]:
    facts = start.facts
    reason = f"{facts.rows:,} usable examples"
    if start.report is not None:
        reason = counts(start.report)
    yield Decision("data.train", facts.train, reason)
    if facts.encoding is not None:
        reason = f"the file is not UTF-8: {facts.encoding.evidence}"
        yield Decision("data.encoding", facts.encoding.encoding, reason)
    for split, (name, rows) in facts.others.items():
        yield Decision(f"data.{split}", name, f"of the same folder, read alike: {rows:,} examples")


def _rejected(start: Starting) -> Iterator[Decision]:
    """A larger ``max_rejected`` where cells are empty, so that preparing does not stop there.

    Raises:
        DataError: more rows are unusable.
    """
    facts, key = start.facts, "data.max_rejected"
    error = facts.rejected.too_many(facts.rows, start.recipe.data.max_rejected)
    if error is None:
        return
    count, total = facts.rejected.faults, facts.rejected.faults + facts.rows
    if key in start.said or count > _MOST_EMPTY * total:
        raise error
    reason = f"{count:,} of {total:,} rows lack a cell and are dropped; the default allows 0.01"
    yield Decision(key, enough(count, total), reason)


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
        why = f"the input: {_why(source, reading.rivals('source'))}{left_out}"
        yield Decision("data.source_column", source, why)
    why = f"the answer to learn: {_why(target, reading.rivals('target'))}"
    yield Decision("data.target_column", target, why)


def _why(column: str, rivals: Sequence[str]) -> str:
    if normalised(column) in (*SOURCES, *TARGETS):
        return "a usual name" + "".join(f", as '{name}' is" for name in rivals)
    other = "by its place, since its name is not a usual one"
    return "a language" if language_of(column) else other


def _template(start: Starting, ask: Ask | None) -> Iterator[Decision]:
    column = start.facts.reading.source_column
    free = column is not None and not set("{}") & set(column) and start.facts.languages is None
    if ask is None or not free or start.recipe.data.template is not None:
        return
    question = "Instruction before each input, such as 'Summarize:' (none: press Enter)"
    if answer := asked(ask, question, "", plain_words):
        yield Decision("data.template", f"{answer} {{{column}}}", ANSWERED)


def _limits(start: Starting, chosen: Chosen) -> Iterator[Decision]:
    histogram = {side: np.bincount(lengths) for side, lengths in chosen.counts.items()}
    limits = choose_limits(dict.fromkeys(histogram, AUTO), lambda: histogram, UNBOUNDED)
    how = f"{chosen.name}'s tokens" if chosen.measured else "estimated from characters"
    for side, lengths in chosen.counts.items():
        limit = f"about {limits[side].tokens:,}"
        points: Sequence[float] = np.percentile(lengths, (50, 99, 100)).tolist()
        if start.report is not None and chosen.counts is start.lengths:  # these are cut
            report: Mapping[str, Any] = start.report
            limit = f"{report['limits'][KEYS[side]]['tokens']:,}"
            tokens = report[f"{side}_tokens"]
            points = tokens["p50"], tokens["p99"], tokens["max"]
        half, most, longest = (f"{int(point):,}" for point in points)
        reason = f"auto: {limit}; half have up to {half}, 99 % {most}, the longest {longest}"
        yield Decision(f"data.{KEYS[side]}", AUTO, f"{reason} ({how})")


def _held_out(start: Starting) -> Iterator[Decision]:
    if start.fraction:
        held_out = start.rows("validation")
        total = held_out + start.rows("train")
        reason = f"{'' if start.report else 'about '}{held_out:,} of {total:,} examples, split by "
        reason += f"input; a score on {HELD_OUT} or more is worth its interval"
        yield Decision("data.validation_fraction", round(start.fraction, 3), reason)


def _adapter() -> Iterator[Decision]:
    reason = "LoRA on all linear layers: on every task measured within 5 % of the best setting"
    yield Decision("lora.target_modules", "all-linear", reason, _MEASURED)
    yield Decision("lora.r", 16, "the rank of those runs")
    yield Decision("lora.alpha", 32, "twice the rank, as in those runs")


def _training(start: Starting, chosen: Chosen) -> Iterator[Decision]:
    given = start.recipe.training
    settled = resolve(start.recipe, chosen.facts).training
    millions = chosen.facts.parameters / 1e6
    base = f"a base of {millions:,.1f} M parameters"
    rate = f"auto: {settled.learning_rate:g} for {base}"
    yield Decision("training.learning_rate", AUTO, rate, _RULES)
    if given.max_steps is None:
        time = f"; takes {chosen.need} here when idle" if chosen.need else ""
        time += _shorter(chosen, expected_steps(settled, chosen.facts))
        passes = (
            f"auto: {'' if chosen.measured and start.report else 'about '}{settled.epochs:g} × "
            f"{chosen.facts.rows:,} training examples{time}"
        )
        yield Decision("training.epochs", AUTO, passes)
    if given.batch_size is None:
        tokens = f"auto: {settled.tokens_per_batch:,} tokens, at least the longest row"
        yield Decision("training.tokens_per_batch", AUTO, tokens)


def _shorter(chosen: Chosen, steps: int) -> str:
    """How to train for about five minutes, where all epochs take longer."""
    if chosen.need is None or chosen.need.seconds <= _LONG:
        return ""
    fewer = max(_FEWEST_STEPS, int(steps * _LONG / chosen.need.seconds) // 50 * 50)
    return f"; shorter: --set training.max_steps={fewer}" if fewer < steps else ""


def _evaluation(start: Starting, chosen: Chosen, metrics: MetricChoice) -> Iterator[Decision]:
    yield Decision("evaluation.metrics", list(metrics.metrics), metrics.reason)
    yield Decision("evaluation.max_new_tokens", AUTO, "auto: follows the lengths of the targets")
    if metrics.metrics == LABEL_METRICS and not start.recipe.evaluation.no_repeat_ngram_size:
        reason = "an answer is always one of them; any text: --set evaluation.constraint=null"
        yield Decision("evaluation.constraint", "labels", reason)
    rows = start.rows("test") or start.rows("validation")
    if chosen.need is None or not rows:
        return
    each = chosen.need.decode
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
    here = is_local(name, start.recipe.model.revision)
    if not here:
        size = f" (about {4 * known.millions / 1000:.1f} GB)" if known else ""
        how = f": train downloads it{size}; without network"
        if is_offline():
            how = ", and the hub is switched off (HF_HUB_OFFLINE)"
        warn(
            f"{name} is not on this machine{how}: --set model.name=demo, or a folder that holds a "
            "base"
        )
    traits = traits_of(start.facts, start.facts.metrics())
    rule = family_for(traits)
    if known is not None and rule.family != known.family:
        say(f"{name} was given; without it, a base of {rule.family} is taken ({rule.why(traits)})")
    if known is None or known.family != FLAN:
        return
    targets = start.facts.targets
    characters = Counter(char for text in targets for char in sorted(set(text)))
    if here:
        beyond = beyond_reach(load_tokenizer(name, start.recipe.model.revision), characters)
        lost = {char: count for char, count in characters.most_common() if char in beyond}
    else:
        lost = lost_to_t5(characters)
    if sum(lost.values()) * _ONE_LOST_IN >= len(targets):
        listed = " ".join(repr(char)[1:-1] for char in list(lost)[:12])
        say(
            f"the base's vocabulary lacks {listed}; its unused embedding rows write them, and are "
            "trained"
        )
