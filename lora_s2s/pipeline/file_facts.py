"""What a file of examples holds: rows, columns, kind of targets, language, lengths, splits."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_s2s.console import ProgressLine
from lora_s2s.data.split_files import with_split_files
from lora_s2s.errors import DataError, quoted
from lora_s2s.evaluation.choice import LABEL_METRICS, TEXT_METRICS, MetricChoice, choose_metrics
from lora_s2s.examples.causes import Causes
from lora_s2s.examples.columns import two_languages
from lora_s2s.examples.example import Example
from lora_s2s.examples.read import Examples
from lora_s2s.examples.reading import Reading
from lora_s2s.examples.shapes import DIALOGUES
from lora_s2s.readers.choose import READERS, ending
from lora_s2s.readers.encodings import Guess, WrongEncoding
from lora_s2s.readers.names import SPLIT_NAMES
from lora_s2s.recipe.bases import Traits
from lora_s2s.recipe.languages import language_of_texts
from lora_s2s.recipe.schema import DataSection

_SAMPLE = 20_000
_TEXTS = 2_000  # of the sample, those whose language is guessed
_FEWEST_ROWS = 10
_SPLITS = ("validation", "test")
_SHARE = 0.9  # of the targets, to be called JSON, code or single words
_CODE = re.compile(r"[{};]\s*$|\b(def|return|function|class|import|void|public|var|const)\b|=>|::")
_MOST_WORDS, _MOST_LETTERS, _LONGEST_SOUND = 2, 30, 3
_LONGEST_INTENT = 3  # words of a reply in a dialogue, up to which it can be a label


@dataclass(frozen=True)
class FileFacts:
    """What reading a file once shows.

    Attributes:
        train: the training files, with those of a folder named one by one.
        rows: their examples.
        rejected: records without one, each with its reason.
        sources, targets: a seeded sample of them, in pairs.
        others: files of the same folder for ``validation`` and ``test``, with their rows.
        encoding: what the files look like, if they are not UTF-8 and the user named none.
    """

    train: str | list[str]
    rows: int
    rejected: Causes
    reading: Reading
    sources: Sequence[str] = field(repr=False)
    targets: Sequence[str] = field(repr=False)
    others: Mapping[str, tuple[str | list[str], int]]
    encoding: Guess | None = None

    @property
    def languages(self) -> tuple[str, str] | None:
        """The two languages that the columns' names are, or the endings of two files of lines."""
        names = (self.reading.source_column, self.reading.target_column)
        if isinstance(self.train, list) and len(self.train) == 2:
            names = tuple(Path(file).suffix.strip(".") for file in self.train)  # type: ignore[assignment]
        source, target = names
        if source is None or target is None or not two_languages(source, target):
            return None
        return source, target

    @property
    def references(self) -> list[list[str]]:
        """The targets of each source of the sample."""
        grouped: dict[str, list[str]] = {}
        for source, target in zip(self.sources, self.targets, strict=True):
            grouped.setdefault(source, []).append(target)
        return list(grouped.values())

    def metrics(self) -> MetricChoice:
        """The metrics that fit the targets: those of JSON, else what ``auto`` chooses."""
        if _share(self.targets, _is_record) >= _SHARE:
            names = ("json_f1", "json_valid", "exact_match")
            return MetricChoice(names, "the targets are JSON objects: equal fields, valid JSON")
        choice = choose_metrics(self.references, translation=self.languages is not None)
        are_texts = any(len(text.split()) > _LONGEST_INTENT for text in self.targets)
        if choice.metrics == LABEL_METRICS and self.reading.format in DIALOGUES and are_texts:
            return MetricChoice(
                TEXT_METRICS,
                "replies are texts, though they repeat; to answer with one of them only: --set "
                "evaluation.constraint=labels",
            )
        return choice


def traits_of(facts: FileFacts, metrics: MetricChoice) -> Traits:
    """What the choice of a base depends on."""
    texts = facts.sources[:_TEXTS]
    language, evidence = language_of_texts(texts)
    if language == "English" and facts.languages is None:
        answers = language_of_texts(facts.targets[:_TEXTS])
        language, evidence = answers if answers[0] != "English" else (language, evidence)
    return Traits(
        task=_task(facts, metrics),
        languages=facts.languages,
        language=language,
        evidence=evidence,
        code=_share(facts.targets, lambda text: _CODE.search(text) is not None) > 1 - _SHARE,
        target_characters=Counter(char for text in facts.targets for char in text),
    )


def _task(facts: FileFacts, metrics: MetricChoice) -> str:
    if facts.languages is not None:
        return "translation"
    if facts.reading.format in DIALOGUES:
        return "dialogue"
    first = metrics.metrics[:2]
    if first == LABEL_METRICS:
        return "labels"
    if first[0] == "json_f1":
        return "extraction"
    if _share(facts.sources, _is_word) >= _SHARE <= _share(facts.targets, _is_spelt):
        return "spelling"
    return "short answers" if first[0] == "exact_match" else "text"


def _is_word(text: str) -> bool:
    return len(text) <= _MOST_LETTERS and len(text.split()) <= _MOST_WORDS


def _is_spelt(text: str) -> bool:
    """Whether a text is a word, or a row of letters or sounds."""
    return _is_word(text) or max(map(len, text.split())) <= _LONGEST_SOUND


def _is_record(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _share(texts: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, texts)) / max(1, len(texts))


def look_at(data: DataSection, *, seed: int = 0) -> FileFacts:
    """Reads a recipe's training data, and finds the files of its other splits.

    Files that are clearly in another encoding are read in that, if the user named none.

    Raises:
        DataError: the columns cannot be guessed, too many rows are unusable for other reasons than
            an empty cell, or there are too few to hold any out.
    """
    try:
        return _facts(data, seed)
    except WrongEncoding as error:
        guess = error.guess
        if not guess.sure or "encoding" in data.model_fields_set:
            raise
    facts = _facts(data.model_copy(update={"encoding": guess.encoding}), seed)
    return replace(facts, encoding=guess)


def _facts(data: DataSection, seed: int) -> FileFacts:
    given, data = data, with_split_files(data)
    examples = Examples(data, seed=seed)
    rows, rejected, sample = _sampled(examples, seed)
    other = None if "encoding" in data.model_fields_set else rejected.wrong_encoding("")
    if other and other.guess.sure:  # however few rows that is
        raise other
    error = rejected.too_many(rows, data.max_rejected)
    if error and not rejected.only_empty:
        raise error
    others = _beside(data, examples.reading)
    for split in _SPLITS:
        if (named := data.named(split)) and not given.named(split):
            others[split] = (named, _rows_like(data, named, examples.reading))
    if rows < _FEWEST_ROWS:
        raise DataError(
            f"{files_of(data)} has {rows} usable rows, too few to hold some out: expected at least "
            f"{_FEWEST_ROWS}",
            hint="add rows; or train without a held-out part: lora-s2s train --data "
            f"{quoted(files_of(data))} --model demo --set data.validation_fraction=0",
        )
    return FileFacts(
        train=data.train,
        rows=rows,
        rejected=rejected,
        reading=examples.reading,
        sources=[one.source for one in sample],
        targets=[one.target for one in sample],
        others=others,
    )


def files_of(data: DataSection) -> str:
    """The names of the training files, the first three of many."""
    return data.train if isinstance(data.train, str) else ", ".join(data.train[:3])


def _sampled(examples: Examples, seed: int) -> tuple[int, Causes, list[Example]]:
    """Counts examples and rejections, and takes a uniform sample of the examples, in their
    order.
    """
    chance = random.Random(seed)
    rows, rejected = 0, Causes()
    sample: dict[int, tuple[int, Example]] = {}
    with ProgressLine("read", short=True) as line:
        for item in examples:
            if not isinstance(item, Example):
                rejected.add(item)
                continue
            place = rows if rows < _SAMPLE else chance.randrange(rows + 1)
            if place < _SAMPLE:
                sample[place] = (rows, item)
            rows += 1
            if rows % 1000 == 0:
                line.update({}, done=rows, total=0)
    ordered = sorted(sample.values(), key=lambda numbered: numbered[0])
    return rows, rejected, [example for _, example in ordered]


def _beside(data: DataSection, reading: Reading) -> dict[str, tuple[str | list[str], int]]:
    """Files beside the training file that its name and theirs mark as other splits, read alike."""
    if not isinstance(data.train, str) or reading.split_column is not None:
        return {}
    path = Path(data.train).expanduser()
    if not path.is_file() or not _marks(path) & {"train"}:
        return {}
    others: dict[str, tuple[str | list[str], int]] = {}
    for split in _SPLITS:
        named = [file for file in sorted(path.parent.iterdir()) if _marks(file) == {split}]
        alike = [file for file in named if ending(file) == ending(path) and file.is_file()]
        if getattr(data, split) is None and len(alike) == 1:
            name = str(Path(data.train).parent / alike[0].name)
            if rows := _rows_like(data, name, reading):
                others[split] = (name, rows)
    return others


def _marks(path: Path) -> set[str]:
    words = set(re.split(r"[^a-z]+", path.name.lower()))
    marks = {split for split, names in SPLIT_NAMES.items() if words.intersection(names)}
    return marks if ending(path) in READERS else set()


def _rows_like(data: DataSection, files: str | list[str], reading: Reading) -> int:
    """How many examples files have, read in the same way; 0 if they are read in another, or not."""
    examples = Examples(data.model_copy(update={"train": files}))
    try:
        rows = sum(isinstance(item, Example) for item in examples)
    except DataError:
        return 0
    keys = ("format", "source_column", "target_column")
    same = all(getattr(examples.reading, key) == getattr(reading, key) for key in keys)
    return rows if same else 0
