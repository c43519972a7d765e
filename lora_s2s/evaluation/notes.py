"""Notes on the reliability of scores, a sentence each."""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_s2s.evaluation.labels import LabelRow, LabelTable
from lora_s2s.evaluation.metrics import Difference, Score
from lora_s2s.evaluation.significance import ENOUGH_SOURCES, smallest_p
from lora_s2s.evaluation.texts import References, plain_answer

BASE = "the base"
_LEVEL = 0.05
_NEAR_ZERO = 5.0  # points
_MOST_NAMED = 5
_LONGEST_NAME = 60
_FEW_REFERENCES = 5
_USUAL = {*string.digits, *string.whitespace}  # not what a vocabulary or training lacks
_MOST_CHARACTERS = 2


@dataclass(frozen=True)
class Answers:
    """Answers of a model, perhaps of its base and of another model ``other``; ``unstopped`` is how
    many of each of the three reached the length limit.
    """

    predictions: Sequence[str]
    references: References
    unstopped: Sequence[int]
    max_new_tokens: int
    other: str
    baseline: Sequence[str] | None = None
    against: Sequence[str] | None = None


def enough_sources(count: int, differences: Mapping[str, Difference]) -> str | None:
    """One sentence on the main metric: whether so many sources suffice for the difference that was
    found, and how many would; None where the systems' scores do not differ, or nothing can be
    significant.
    """
    main = next(iter(differences.values()), None)
    if main is None or main.detectable is None or smallest_p(count) > _LEVEL:
        return None
    size, least = abs(main.value), main.detectable
    reliable = f"{count:,} sources reliably tell {least:.2f} points or more from chance"
    reliable += " (level 5 %, power 80 %)"
    if size < 0.005:
        return f"no difference of {main.name}: {reliable}"
    significant, end = main.p_value < _LEVEL, ""
    verdict = "is unlikely to be chance" if significant else "may be chance"
    if size < least and significant:
        verdict += ", but other sources might not show it"
    elif size < least:
        needed = _rounded(math.ceil(count * (least / size) ** 2))
        end = f"; about {needed:,} sources would tell"
    return f"the difference of {size:.2f} points of {main.name} {verdict}: {reliable}{end}"


def _rounded(count: int) -> int:
    """Two significant digits, upwards."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def notes_on(
    answers: Answers, scores: Mapping[str, Score], labels: LabelTable | None
) -> tuple[str, ...]:
    """The notes, most important first."""
    return (
        *_on_answers(answers),
        *_on_limit(answers, scores),
        *_on_scores(scores),
        *_on_fit(scores, answers.references, labels),
        *(_on_labels(labels, scores) if labels else _on_characters(answers)),
        *_on_sample(
            len(answers.predictions),
            compared=answers.baseline is not None or answers.against is not None,
        ),
    )


def _on_answers(answers: Answers) -> Iterator[str]:
    count, texts = len(answers.predictions), answers.predictions
    commonest, times = Counter(texts).most_common(1)[0]
    empty = sum(not text.strip() for text in texts)
    different_references = len({text for several in answers.references for text in several}) > 1
    if count > 1 and times == count and different_references:
        yield f"all {count:,} answers are the same: {_named(commonest)}"
    elif empty:
        yield f"{empty:,} of {count:,} answers are empty"
    if answers.baseline is not None and list(answers.baseline) == list(texts):
        yield (f"adapter and base give the same answers to all {count:,} sources")
    if answers.against is not None and list(answers.against) == list(texts):
        yield f"both models give the same answers to all {count:,} sources"


def _on_limit(answers: Answers, scores: Mapping[str, Score]) -> Iterator[str]:
    count, reason = len(answers.predictions), ""
    if "json_valid" in scores:
        reason = ": JSON that is cut is not valid"
    limit = f"the length limit, evaluation.max_new_tokens={answers.max_new_tokens}"
    systems = (("", limit), (f" of {BASE}", limit), (f" of {answers.other}", "its length limit"))
    for (whose, where), times in zip(systems, answers.unstopped, strict=True):
        if times:
            yield f"{cut_answers(times, count, whose)} {where}{reason}"


def cut_answers(times: int, count: int, whose: str) -> str:
    """The beginning of the note on answers that reached a length limit; ``whose`` is `` of NAME``,
    empty for the scored model.
    """
    return f"{times:,} of {count:,} answers{whose} {'was' if times == 1 else 'were'} cut at"


def _on_scores(scores: Mapping[str, Score]) -> Iterator[str]:
    main = next(iter(scores.values()), None)
    if main is None or main.scale.low != 0 or main.scale.better == "neither":
        return
    if main.scale.better == "higher" and main.scale.high != 100:
        return
    if main.lower_is_better:
        poor, scale = main.value > 100 - _NEAR_ZERO, " (0 is best)"
    else:
        poor, scale = main.value < _NEAR_ZERO, " of 100, near zero"
    if poor:
        yield (
            f"{main.name} is {main.value:.2f}{scale}: compare answers and references in "
            "the predictions; common causes are too little training and a template or columns that "
            "differ from training"
        )


def _on_fit(
    scores: Mapping[str, Score], references: References, labels: LabelTable | None
) -> Iterator[str]:
    for name, score in scores.items():
        if score.n is not None:
            counted = f"{score.n:,} of {len(references):,} sources"
            yield f"{name} counts {counted}: the references of the others do not suit it"
    for_labels = [name for name in ("accuracy", "macro_f1") if name in scores]
    if for_labels and labels is None:
        different = len({texts[0] for texts in references})
        yield (
            f"{' and '.join(for_labels)}: meant for labels, and the references are "
            f"{different:,} different texts in {len(references):,} sources"
        )


def _on_labels(labels: LabelTable, scores: Mapping[str, Score]) -> Iterator[str]:
    never, sources = labels.never_answered, labels.sources
    accuracy, majority = 100 * labels.right / sources, labels.rows[0]
    constant = 100 * majority.references / sources
    if len(labels.rows) > 1 and accuracy <= constant:
        compared = "less than" if accuracy < constant else "no more than"
        always = f"the {constant:.1f} % of always answering {_named(majority.label)}"
        yield f"{accuracy:.1f} % of answers are correct, {compared} {always}"
    if len(labels.rows) > 1 and never:
        verb = "is" if len(never) == 1 else "are"
        yield (
            f"{len(never):,} of {len(labels.rows):,} labels {verb} never answered: {_listed(never)}"
        )
    if labels.others:
        commonest = Counter(labels.others).most_common(1)[0][0]
        yield (
            f"{len(labels.others):,} of {sources:,} answers are not a label, such as "
            f"{_named(commonest)}"
        )
    few = [row for row in labels.rows if row.references < _FEW_REFERENCES]
    if few and "macro_f1" in scores:
        share = f"{len(few):,} of {len(labels.rows):,} labels"
        yield f"macro_f1 is imprecise: {share} have fewer than {_FEW_REFERENCES} sources"


def _on_characters(answers: Answers) -> Iterator[str]:
    """Where most wrong answers have a reference with one rare character, with which nearly all are
    wrong and without which few are.
    """
    count, wrong, every, of_wrong = len(answers.references), 0, Counter[str](), Counter[str]()
    for text, several in zip(answers.predictions, answers.references, strict=True):
        plain = [plain_answer(reference) for reference in several]
        shared = set.intersection(*(set(reference.lower()) for reference in plain)) - _USUAL
        every.update(shared)
        if plain_answer(text) not in plain:
            wrong += 1
            of_wrong.update(shared)
    named = [
        (char, times)
        for char, times in of_wrong.most_common()
        if times >= max(_FEW_REFERENCES, wrong / 2, 0.8 * every[char])
        and wrong - times <= 0.2 * (count - every[char])
        and every[char] <= count / 3
    ]
    # Long answers or those of one kind have many characters that others lack.
    for char, times in named if len(named) <= _MOST_CHARACTERS else ():
        yield (
            f"{times:,} of the {wrong:,} wrong answers have {char!r} in the reference, of "
            f"{every[char]:,} references with it: see how many training targets have it; more such "
            "rows help, or data.lossless_text=on if the base's vocabulary lacks it"
        )


def _on_sample(count: int, *, compared: bool) -> Iterator[str]:
    if count < ENOUGH_SOURCES:
        sources = f"{count} source{'' if count == 1 else 's'}"
        least = smallest_p(count)
        possible = f"; no p-value below {least:.2g} is possible" if compared else ""
        significant = ", so no difference can be significant" if compared and least > 0.05 else ""
        yield (
            f"too few sources for reliable intervals: {sources}, fewer than "
            f"{ENOUGH_SOURCES}{possible}{significant}"
        )


def _listed(rows: Sequence[LabelRow]) -> str:
    names = ", ".join(
        f"{_named(row.label)} ({row.references:,} sources)" for row in rows[:_MOST_NAMED]
    )
    return names if len(rows) <= _MOST_NAMED else f"{names} and {len(rows) - _MOST_NAMED:,} more"


def _named(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…")
