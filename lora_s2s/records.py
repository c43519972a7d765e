"""Typed records of every JSON document that the package writes and reads back: read, write, verify.

No other module opens a manifest. A value that a recipe has too is read within the recipe's bounds;
unknown keys are ignored. ``content`` is the document as it stands in the file, for what shows or
copies all of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from lora_s2s.data_report import CharacterCounts, DataReport, PairSide, Sides
from lora_s2s.documents import Amount, Count, Document, Record
from lora_s2s.errors import DataError
from lora_s2s.files import belongs, known_sha256, mapping, read_object, write_json
from lora_s2s.recipe.evaluation import limit_for
from lora_s2s.recipe.fields import (
    AnswerLimit,
    Beams,
    Candidates,
    ConstraintValue,
    Language,
    LengthPenalty,
    NgramSize,
    Quantization,
    RepetitionPenalty,
    SamplingSeed,
    SourceLimit,
    TargetLimit,
    Temperature,
    TopP,
    Truncation,
    Utility,
)

_MANIFEST = "manifest.json"


def _texts(value: object) -> object:
    texts = value if isinstance(value, list) and value else [value]
    if value is not None and not all(isinstance(text, str) for text in texts):
        raise ValueError(f"should be text, or a list of texts, not {value!r:.40}")
    return value


Template = Annotated[str | list[str] | None, BeforeValidator(_texts)]


class FileEntry(Record):
    """What a manifest says of one file beside it."""

    sha256: str
    bytes: Count


Files = dict[str, FileEntry]


class Base(Record):
    """The base that an adapter was trained on; ``name`` is as the user gave it."""

    name: str | None = None
    revision: str | None = None
    weights_sha256: str | None = None
    quantization: Quantization | None = None
    skip_quantization: list[str] | None = None
    dtype: str | None = None


class InputSettings(Record):
    """How training turned a row into the encoder's input; null takes the default.

    ``truncate_source``: training may drop sources that are too long, an answer cannot.
    ``carried`` are texts on unused embedding rows, ``special_tokens`` added tokens of one id each.
    ``system`` is what every training conversation began with, for inputs without a system text.
    ``target_p99`` and ``longest_target`` are lengths of the training targets in tokens.
    """

    template: Template = None
    source_column: str | None = None
    format: str = "auto"
    max_source_tokens: SourceLimit = 512
    max_target_tokens: TargetLimit | None = None
    truncate_source: Truncation = "right"
    source_language: Language = None
    target_language: Language = None
    carried: list[str] = Field(default=[])
    special_tokens: list[str] = Field(default=[])
    system: str = ""
    target_p99: Count | None = None
    longest_target: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None}

    @property
    def answer_limit(self) -> int | None:
        """The length limit of answers that follows from the training targets; of adapters that do
        not record their lengths, that of the targets.
        """
        if self.target_p99 is None or self.longest_target is None:
            return self.max_target_tokens
        return limit_for(self.target_p99, self.longest_target)

    @property
    def first_template(self) -> str | None:
        """The template that inference uses: the first of several."""
        if self.template is None or isinstance(self.template, str):
            return self.template
        return self.template[0]


class Decoding(Record):
    """How a model was scored, and how a merged one answers."""

    max_new_tokens: AnswerLimit
    num_beams: Beams
    early_stopping: bool | None = None
    length_penalty: LengthPenalty = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    no_repeat_ngram_size: NgramSize = 0
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    seed: SamplingSeed = 42
    decoding: Literal["default", "checkpoint"] = "default"
    mbr: Utility = None
    mbr_candidates: Candidates = 16
    constraint: ConstraintValue = None


class LabelProbabilities(Record):
    """The labels that were scored, and what their log-probabilities are divided by; null where no
    validation data told.
    """

    labels: list[str]
    temperature: Annotated[float, Field(ge=0.01, le=100)] | None = None


class ScoredLabels(Record):
    """What is read back of an evaluation's labels."""

    probabilities: LabelProbabilities | None = None


class Scored(Record):
    """What is read back of one evaluation; its scores are shown as they stand."""

    decoding: Decoding | None = None
    labels: ScoredLabels | None = None


class Counts(Record):
    """Parameters of an adapter on its base."""

    trainable_parameters: Count
    total_parameters: Count


class Training(Record):
    """What is read back of a finished run's report."""

    steps: Count
    train_loss: Amount
    validation_loss: Amount | None = None
    tokens_per_second: Amount
    stopped: str | None


class AdapterManifest(Document):
    """``manifest.json`` of an adapter; adapters made by other tools have none."""

    file = _MANIFEST
    optional = True
    hint = "get the folder again, or train the adapter again"

    base: Base = Base.model_construct()
    input: InputSettings = InputSettings.model_construct()
    sources: dict[str, object] = Field(default={})
    labels: LabelProbabilities | None = None
    scores: dict[str, Scored] = Field(default={})
    files: Files | None = None

    @property
    def decoding(self) -> Decoding | None:
        """That of the newest evaluation."""
        return next((one.decoding for one in reversed(self.scores.values()) if one.decoding), None)

    @property
    def known_labels(self) -> LabelProbabilities | None:
        """The labels of the newest evaluation that scored some, else those of training."""
        labels = (one.labels for one in reversed(self.scores.values()) if one.labels)
        scored = (one.probabilities for one in labels if one.probabilities)
        return next(scored, self.labels)


class FinishedManifest(AdapterManifest):
    """``manifest.json`` of an adapter, with what its run reported."""

    optional = False

    training: Training
    counts: Counts


class ModelManifest(Document):
    """``manifest.json`` of a whole model that was merged or trained here; a model from elsewhere
    may have one of its own, of which the input settings count alone.
    """

    file = _MANIFEST
    optional = True
    hint = "get the folder again, or merge the adapter again"

    base: Base = Base.model_construct()
    merged: dict[str, object] | None = None
    input: InputSettings = InputSettings.model_construct()
    decoding: Decoding | None = None
    labels: LabelProbabilities | None = None
    files: Files | None = None

    @classmethod
    def _part(cls, content: dict[str, object]) -> dict[str, object]:
        ours = any(key in content for key in ("merged", "export", "training"))
        return content if ours else {key: content[key] for key in content if key == "input"}


class Export(Record):
    """What an exported folder was made for."""

    format: str
    precision: str


class ExportManifest(Document):
    """``manifest.json`` of a folder that ``export`` wrote.

    ``positions`` is how many tokens a source or an answer may have, ``start`` the decoder's first
    input where it is not the padding, ``never`` the sequences of ids that no answer holds.
    """

    file = _MANIFEST
    version = (("format", 1),)
    about = "an export"
    hint = "get the folder again, or export the model again"

    export: Export
    input: InputSettings
    decoding: Decoding
    positions: Count | None = None
    start: Count | None = None
    never: list[list[Count]] = Field(default=[])
    labels: LabelProbabilities | None = None
    files: Files

    def require(self, folder: Path, name: str) -> None:
        """Checks that a file which is about to be loaded is listed, and so was verified.

        Raises:
            DataError: it is not.
        """
        if name not in self.files:
            problem = f"`{self.file}` is damaged: files lacks {name}"
            raise DataError(problem, hint=self.hint, where=str(self.path(folder)))


class PreparedInput(InputSettings):
    """The input settings of prepared data, whose limits are numbers."""

    max_source_tokens: SourceLimit
    max_target_tokens: TargetLimit
    carried: list[str]


class Identity(Record):
    """What prepared data was made from, as far as it is compared again."""

    data: dict[str, list[object]] | None = None
    tokenizer: str | None = None


class PreparedManifest(Document):
    """``manifest.json`` of prepared data."""

    file = _MANIFEST
    version = (("kind", "lora-s2s prepared data"), ("format", 3))
    about = "prepared data"
    hint = "remove the folder and prepare the data again"

    fingerprint: str
    identity: Identity = Identity.model_construct()
    input: PreparedInput
    files: Files
    report: DataReport
    preview: list[Sides[PairSide]]


class ShardManifest(Document):
    """``manifest.json`` of a shard; ``batches``: split read, block and rows of each."""

    file = _MANIFEST
    version = (("kind", "lora-s2s shard of prepared data"), ("format", 1))
    about = "a shard of prepared data"
    hint = "remove the shard's folder and make it again"

    shard: Annotated[list[Count], Field(min_length=2, max_length=2)]
    identity: dict[str, object]
    files: Files
    rows: dict[str, Count]
    characters: CharacterCounts
    batches: list[list[Count]]


class CheckpointFile(Document):
    """``state.json`` of a checkpoint; :func:`complete` makes the run's counters of ``state``."""

    file = "state.json"
    version = (("format", 2),)
    about = "a checkpoint"

    state: dict[str, object]
    identity: dict[str, str]
    sha256: dict[str, str]


def manifest_content(folder: Path) -> dict[str, object]:
    """Returns a folder's manifest as it stands, to be shown: every value may be anything.

    Raises:
        DataError: it is missing, or not a JSON object.
    """
    return read_object(folder / _MANIFEST)


def has_manifest(folder: Path) -> bool:
    """Whether a folder holds a manifest, of whatever kind."""
    return os.path.isfile(folder / _MANIFEST)  # never raises, whatever the name


def is_export(folder: Path) -> bool:
    """Whether ``export`` wrote a folder for a runtime other than torch."""
    export = manifest_content(folder).get("export") if has_manifest(folder) else None
    # A folder of safetensors is a model like any other.
    return export is not None and export != {**mapping(export), "format": "safetensors"}


def write(folder: Path, content: Mapping[str, object]) -> None:
    """Writes a folder's manifest, keys in the given order."""
    write_json(folder / _MANIFEST, content)


def add_scores(folder: Path, name: str, scores: Mapping[str, object]) -> None:
    """Puts an evaluation's scores into an adapter's manifest, whose other content stays.

    Raises:
        DataError: the manifest is missing or damaged.
    """
    content = manifest_content(folder)
    others = mapping(content.get("scores"))
    write(folder, {**content, "scores": {**others, name: scores}})


def verify(folder: Path, files: Files | None, *, hint: str | None = None) -> None:
    """Compares the files of a folder with what its manifest says of them; None is not compared.

    Raises:
        DataError: one is missing or differs, or is not in the folder itself.
    """
    hint = hint or (
        "get the folder again; if the change is yours, take the file's entry out of manifest.json"
    )
    manifest = folder / _MANIFEST
    for name, entry in (files or {}).items():
        path = folder / name
        if not belongs(folder, name):
            problem = (
                f"`{manifest.name}` is damaged: files names '{name:.40}', not a file of the folder"
            )
            raise DataError(problem, hint=hint, where=str(manifest))
        if not path.is_file():
            problem = f"the file is missing, and `{manifest.name}` lists it"
            raise DataError(problem, hint=hint, where=str(path))
        # The size first: a file that was exchanged for one without end is not hashed.
        if entry.bytes != path.stat().st_size or entry.sha256 != known_sha256(path):
            problem = f"the file differs from its hash in `{manifest.name}`"
            raise DataError(problem, hint=hint, where=str(path))
