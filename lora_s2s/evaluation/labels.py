"""Classification: recognises labels, and counts answers per label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lora_s2s.evaluation.texts import References, plain_answer

MOST_LABELS = 1000
_LONGEST_LABEL = 80
# Labels repeat: this many sources per label on average and, unless there are very few labels,
# nearly all sources have a label that occurs this often.
_TIMES, _SHARE_REPEATED, _VERY_FEW = 3, 0.9, 10


@dataclass(frozen=True)
class LabelRow:
    """One label: how many sources have it as reference, as answer, and correctly so."""

    label: str
    references: int
    answers: int
    right: int

    def to_json(self) -> dict[str, object]:
        """The counts with precision (null without answers), recall and F1, 0 to 100."""
        total = self.references + self.answers
        return {
            "label": self.label,
            "references": self.references,
            "answers": self.answers,
            "precision": _percent(self.right, self.answers) if self.answers else None,
            "recall": _percent(self.right, self.references),
            "f1": _percent(2 * self.right, total),
        }


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2)


@dataclass(frozen=True)
class LabelTable:
    """The labels of the references, most frequent first.

    Attributes:
        others: answers without label.
        confusion: how many sources have a label as reference and one as answer (None: no label),
            most frequent first.
    """

    rows: tuple[LabelRow, ...]
    others: tuple[str, ...]
    confusion: tuple[tuple[str, str | None, int], ...] = ()

    @property
    def sources(self) -> int:
        """The number of sources."""
        return sum(row.references for row in self.rows)

    @property
    def right(self) -> int:
        """The number of correct answers."""
        return sum(row.right for row in self.rows)

    @property
    def never_answered(self) -> list[LabelRow]:
        """The labels that are never answered, most frequent first."""
        return [row for row in self.rows if not row.answers]

    def to_json(self) -> dict[str, object]:
        """The table, the labels that are never answered, the number of other answers, and the
        confusion matrix as its entries that are not zero.
        """
        return {
            "table": [row.to_json() for row in self.rows],
            "never_answered": [row.label for row in self.never_answered],
            "other_answers": len(self.others),
            "confusion": [
                {"label": label, "answer": answer, "count": count}
                for label, answer, count in self.confusion
            ],
        }


def distinct_labels(references: References, known: Collection[str]) -> int | None:
    """The number of distinct labels among the references; None if they are not labels.

    Labels are short and repeat often, or are nearly all ``known`` from training. A source may have
    several: those of rows that contradict each other.
    """
    found = Counter(label for texts in references for label in set(map(plain_answer, texts)))
    trained = {plain_answer(label) for label in known}
    among = sum(count for label, count in found.items() if label in trained)
    same = bool(trained) and among >= _SHARE_REPEATED * found.total()
    return len(found) if same or are_labels(found) else None


def are_labels(targets: Counter[str]) -> bool:
    """Whether plain answers are labels: short, few, and repeated often."""
    total = targets.total()
    repeated = sum(count for count in targets.values() if count >= _TIMES)
    short = all(len(label) <= _LONGEST_LABEL and "\n" not in label for label in targets)
    few = len(targets) <= min(MOST_LABELS, total // _TIMES)
    repeat = len(targets) <= _VERY_FEW or repeated >= _SHARE_REPEATED * total
    return few and short and repeat


def label_table(predictions: Sequence[str], references: References) -> LabelTable:
    """Counts references, answers and correct answers; any reference of a source is correct."""
    counts, answers, right = Counter[str](), Counter[str](), Counter[str]()
    answered: list[str] = []
    labels = [plain_answer(texts[0]) for texts in references]
    for label, text, texts in zip(labels, predictions, references, strict=True):
        answer = plain_answer(text)
        hit = answer in map(plain_answer, texts)
        answered.append(label if hit else answer)
        counts[label] += 1
        right[label] += hit
    answers.update(answered)
    rows = (
        LabelRow(label, count, answers[label], right[label])
        for label, count in counts.most_common()
    )
    others = tuple(answer for answer in answered if answer not in counts)
    pairs = Counter(
        (label, answer if answer in counts else None)
        for label, answer in zip(labels, answered, strict=True)
    )
    confusion = tuple((*pair, count) for pair, count in pairs.most_common())
    return LabelTable(tuple(rows), others, confusion)
