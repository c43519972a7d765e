"""The closed set of labels that ``predict --scores`` chooses from. Heavy to import."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.labels import MOST_LABELS, are_labels
from lora_s2s.evaluation.texts import plain_answer
from lora_s2s.files import naming, read_whole
from lora_s2s.hub import is_trained
from lora_s2s.pipeline.followed import training_targets
from lora_s2s.pipeline.ranking import LabelChoice, Weighing
from lora_s2s.readers.encodings import checked_lines
from lora_s2s.recipe.layers import Overrides, overridden_keys
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import (
    AdapterManifest,
    ExportManifest,
    LabelProbabilities,
    ModelManifest,
    has_manifest,
    is_export,
)

_NAME_THEM = "name the labels: --labels 'yes, no', or --labels FILE"


def label_choice(
    model: str, recipe: Recipe, overrides: Overrides, named: str | None
) -> LabelChoice:
    """Returns the labels that a user names, else those of the training targets, with the
    temperature of the adapter's last evaluation where that was fitted on the same labels.

    Raises:
        UsageError: none are named, and the training targets are unknown or no labels.
        DataError: a file that cannot be read.
    """
    scored = known_labels(model)
    if named is not None:
        labels = named_labels(named)
    elif scored is not None and "data.train" not in overridden_keys(overrides):
        labels = tuple(scored.labels)
    else:
        try:
            labels = trained_labels(recipe, model, overrides)
        except DataError as error:
            raise DataError(error.message, hint=_NAME_THEM, where=error.where) from error
    known = scored is not None and set(scored.labels) == set(labels)
    temperature = scored.temperature if known and scored is not None else None
    if temperature is None:
        say(f"{len(labels):,} labels; their probabilities are not calibrated: `lora-s2s eval` can")
        return LabelChoice(labels)
    say(f"{len(labels):,} labels; calibrated: temperature {temperature:.3g}")
    return LabelChoice(labels, Weighing(temperature))


def known_labels(model: str) -> LabelProbabilities | None:
    """Returns the labels that a folder records: of its last evaluation, else of its training; a
    merged or exported model has those of its adapter.
    """
    folder = Path(model).expanduser()
    if is_trained(folder):
        return AdapterManifest.read(folder).known_labels
    if not has_manifest(folder):
        return None
    return (ExportManifest if is_export(folder) else ModelManifest).read(folder).labels


def labels_among(targets: Iterable[str]) -> tuple[str, ...]:
    """Returns the labels that training targets are, the most frequent first; empty if they are
    none.
    """
    counts, spelled = Counter[str](), dict[str, str]()
    for target in targets:
        plain = plain_answer(target)
        counts[plain] += 1
        spelled.setdefault(plain, target)
        if len(counts) > MOST_LABELS:
            return ()
    if not are_labels(counts):
        return ()
    return tuple(spelled[label] for label, _ in counts.most_common())


def named_labels(named: str) -> tuple[str, ...]:
    """Returns the labels in a file, or of a list such as ``yes, no``."""
    path = Path(named).expanduser()
    if path.is_file():
        return tuple(_in_file(path))
    words = named.strip().removeprefix("[").removesuffix("]").split(",")
    if len(words) < 2:
        raise UsageError(
            f"--labels: no file '{named:.200}', and no list of labels", hint=_NAME_THEM
        )
    return tuple(word.strip() for word in words)


def _in_file(path: Path) -> list[str]:
    if path.suffix == ".json":
        with naming(path):
            content = read_whole(path)
        try:
            labels = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}", where=str(path)) from error
        if not isinstance(labels, list) or not all(isinstance(text, str) for text in labels):
            raise DataError("not a JSON list of texts", where=str(path))
        return labels
    return [line.strip() for line in checked_lines(path) if line.strip()]


def trained_labels(recipe: Recipe, model: str, overrides: Overrides) -> tuple[str, ...]:
    """Returns the labels among an adapter's training targets, the most frequent first.

    Raises:
        UsageError: there is no training data, or its targets are no labels.
        DataError: the folder's recipe names other data than it was trained on.
    """
    labels = labels_among(training_targets(recipe, model, overrides, hint=_NAME_THEM))
    if not labels:
        raise UsageError(f"the training targets of {model} are no set of labels", hint=_NAME_THEM)
    return labels
