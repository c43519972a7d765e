"""Tokenises the spool: record batches of texts to record batches of features."""

from __future__ import annotations

import gc
import json
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lora_s2s.console import ProgressLine
from lora_s2s.data.limits import KEYS
from lora_s2s.data.prepared import KeptRow, SplitWriter, record_batch
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.split import REASONS, SPLITS, Decisions
from lora_s2s.data.spool import TEXTS, Spooled
from lora_s2s.data.survey import SIDES, Tally
from lora_s2s.data_report import listed
from lora_s2s.errors import DataError
from lora_s2s.examples.conversations import fit_turns, system_text
from lora_s2s.readers.rows import Rejected, reject
from lora_s2s.recipe.schema import DataSection
from lora_s2s.tokens.encoder import TextEncoder, encoder_of
from lora_s2s.tokens.special_tokens import SpecialTokenTemplates, special_token_templates
from lora_s2s.tokens.tokenise import Ids, LengthRules, features_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COLLECT_AFTER = (500_000, 50, 50)
_FORM = f"{string.punctuation}{string.whitespace}".encode()


@dataclass(frozen=True)
class Encoding:
    """Everything that turns texts into features.

    Attributes:
        classes: whether to count targets.
        tokenised: take the ids that the spool has.
    """

    encoder: TextEncoder
    templates: SpecialTokenTemplates
    unknown_id: int
    rules: LengthRules
    classes: bool
    tokenised: bool = False

    def rules_of(self, split: str, dialogue: bool) -> LengthRules:
        """The rules for a row: test rows are never dropped, dialogues keep their newest turns."""
        rules = self.rules
        if split == "test":
            side = "right" if rules.truncate_source == "drop" else rules.truncate_source
            rules = replace(rules, long_targets="keep", truncate_source=side)
        if dialogue and rules.truncate_source == "right":
            rules = replace(rules, truncate_source="left")
        return rules

    def fitted(self, text: str, ids: list[int], turns: str) -> tuple[str, list[int]]:
        """A dialogue as text and ids, without its oldest turns if too long."""
        most = self.rules.max_source_tokens - len(self.templates.source)
        if len(ids) <= most or self.rules.truncate_source == "drop":
            return text, ids
        spoken, template = json.loads(turns)
        encoded: dict[str, list[int]] = {}

        def fits(shorter: str) -> bool:
            encoded[shorter] = self.encoder([shorter], "text")[0]
            return bool(len(encoded[shorter]) <= most)

        fitted = fit_turns(spoken, template, fits)
        return fitted, encoded.get(fitted) or self.encoder([fitted], "text")[0]


@dataclass(frozen=True)
class Encoded:
    """A batch's outcome: a record batch per split, the rejected rows, and counts."""

    splits: dict[str, pa.RecordBatch]
    rejected: list[Rejected]
    tally: Tally
    rows: int


def write_splits(
    folder: Path,
    spool: Spooled,
    decisions: Decisions,
    tokenizer: PreTrainedTokenizerBase,
    data: DataSection,
    rejected: Rejections,
) -> tuple[Counter[str], Tally]:
    """Writes the splits' files into the folder and removes the spool; returns row counts by split
    and the tally.

    Args:
        tokenizer: that of the spool, if that is tokenised.
        data: with numbers for the limits.
    """
    source, target = (int(getattr(data, key)) for key in KEYS.values())
    encoding = Encoding(
        encoder_of(tokenizer),
        special_token_templates(tokenizer),
        tokenizer.unk_token_id,
        LengthRules(source, target, data.truncate_source, data.long_targets),
        classes=decisions.classes > 0,
        tokenised=spool.tokenised,
    )
    tally, done = Tally(), 0
    with SplitWriter(folder) as writer, ProgressLine("tokenise", short=True) as line:
        for encoded in encode_spool(spool, decisions, encoding):
            for split, batch in encoded.splits.items():
                writer.add(split, batch)
            for item in encoded.rejected:
                rejected.add(item)
            tally.add(encoded.tally)
            done += encoded.rows
            line.update({}, done=done, total=spool.rows)
    spool.close()
    if not writer.rows["train"]:
        raise DataError(
            f"nothing is left to train on: {listed(rejected.reasons.most_common(4))}",
            hint="raise data.max_target_tokens or data.max_source_tokens, or set "
            "data.long_targets=cut",
        )
    return writer.rows, tally


def encode_spool(spool: Spooled, decisions: Decisions, encoding: Encoding) -> Iterator[Encoded]:
    """Yields the outcome of every record batch of a spool, in order."""
    begun = 0
    for batch in spool.batches():
        rows = slice(begun, begun + len(batch))
        yield encode_batch(batch, decisions.code[rows], decisions.copies[rows], encoding)
        begun += len(batch)


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Runs Python's garbage collector rarely: rows have no cycles, and searching for them took a
    third of the time.
    """
    usual = gc.get_threshold()
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class _Row(NamedTuple):
    """One row of the spool, and the decisions on it."""

    source: str
    target: str
    where: str
    turns: str | None
    code: int
    copies: int


def encode_batch(
    batch: pa.RecordBatch,
    codes: npt.NDArray[np.uint8],
    copies: npt.NDArray[np.int16],
    encoding: Encoding,
) -> Encoded:
    """Tokenises a record batch of the spool, each distinct text once.

    Args:
        codes, copies: (rows,) see :class:`lora_s2s.data.split.Decisions`.
    """
    texts = batch.select([*TEXTS]).to_pydict()
    rows = [*map(_Row, *texts.values(), codes.tolist(), copies.tolist())]
    live = [row for row in rows if row.code not in REASONS]
    omitted = [
        reject(row.where, REASONS[row.code], row.source) for row in rows if row.code in REASONS
    ]
    outcome = _Outcome(encoding, omitted)
    if encoding.tokenised:
        kept = pa.array([row.code not in REASONS for row in rows])
        sources, targets = (batch[f"{side}_ids"].filter(kept).to_pylist() for side in SIDES)
    else:
        sources = _by_text([row.source for row in live], encoding.encoder, "text")
        targets = _by_text([row.target for row in live], encoding.encoder, "text_target")
    for row, source, target in zip(live, sources, targets, strict=True):
        outcome.take(row, source, target)
    return outcome.encoded(len(rows))


def _system_text(turns: str) -> str:
    """The system text of a row of the spool, ``[[[role, text], …], template]``. The other turns,
    which repeat all earlier rows', are not read.
    """
    first, _ = json.JSONDecoder().raw_decode(turns, len("[["))
    return system_text([first])


def _by_text(texts: Sequence[str], encoder: TextEncoder, side: str) -> list[list[int]]:
    distinct = list(dict.fromkeys(texts))
    encoded = encoder(distinct, side)
    if len(distinct) == len(texts):
        return encoded
    ids = dict(zip(distinct, encoded, strict=True))
    return [ids[text] for text in texts]


class _Outcome:
    """Collects the outcome of a batch, row by row."""

    def __init__(self, encoding: Encoding, rejected: list[Rejected]) -> None:
        self._encoding, self._rejected = encoding, rejected
        self._kept: dict[str, list[KeptRow]] = {split: [] for split in SPLITS}
        self._lengths: dict[str, list[int]] = {side: [] for side in SIDES}
        self._alike: list[int] = []
        self._forms: dict[str, list[int]] = {"train": [], "held": []}
        self._tally = Tally()
        templates, rules = encoding.templates, encoding.rules
        self._most_source = rules.max_source_tokens - len(templates.source)
        self._most_target = rules.max_target_tokens - len(templates.target)

    def take(self, row: _Row, source: list[int], target: list[int]) -> None:
        """Adds a row with the uncut ids of its texts."""
        self._lengths["source"].append(len(source))
        self._lengths["target"].append(len(target))
        if 0 < len(source) <= self._most_source and 0 < len(target) <= self._most_target:
            templates = self._encoding.templates  # nearly every row: nothing to cut
            input_ids = templates.source.around(source)
            self._keep(row, row.source, input_ids, templates.target.around(target))
        else:
            self._cut(row, source, target)

    def _cut(self, row: _Row, source: list[int], target: list[int]) -> None:
        encoding, split, text = self._encoding, SPLITS[row.code], row.source
        if row.turns is not None:
            text, source = encoding.fitted(row.source, source, row.turns)
        rules = encoding.rules_of(split, row.turns is not None)
        features = features_of(source, target, encoding.templates, rules)
        if isinstance(features, str):
            self._rejected.append(reject(row.where, features, row.target))
            return
        self._tally.truncated["source"] += features.source_truncated or text != row.source
        self._tally.truncated["target"] += features.target_truncated
        self._keep(row, text, features.input_ids, features.labels)

    def _keep(self, row: _Row, text: str, input_ids: Ids, labels: Ids) -> None:
        split = SPLITS[row.code]
        kept = KeptRow(input_ids, labels, text, row.target, row.where)
        self._kept[split] += [kept] if row.copies == 1 else [kept] * row.copies
        source_form, pair_form = _without_form(row)
        self._alike.append(pair_form)
        self._forms["train" if split == "train" else "held"].append(source_form)
        self._tally.copied += row.target in text
        self._tally.identical += row.target == row.source
        if split == "train" and len(self._tally.systems) < 2:
            self._tally.systems.add(_system_text(row.turns) if row.turns else "")
        if self._encoding.classes and split == "train":
            self._tally.classes[row.target] += row.copies

    def encoded(self, rows: int) -> Encoded:
        """The outcome of all rows."""
        tally, templates = self._tally, self._encoding.templates
        for side in SIDES:
            lengths = np.array(self._lengths[side], int)
            tally.lengths[side] = np.bincount(lengths + len(getattr(templates, side)))
        tally.alike = [np.array(self._alike, np.uint64)]
        tally.forms = {side: [np.array(forms, np.uint64)] for side, forms in self._forms.items()}
        tally.kept = len(self._alike)
        splits = {}
        for split, kept in self._kept.items():
            if kept:
                splits[split] = batch = record_batch(kept)
                for side, column in zip(SIDES, batch.columns[:2], strict=True):
                    ids = column.values.to_numpy()
                    tally.tokens[side] += len(ids)
                    tally.unknown[side] += int((ids == self._encoding.unknown_id).sum())
        return Encoded(splits, self._rejected, tally, rows)


def _without_form(row: _Row) -> tuple[int, int]:
    """Hashes of a row's source and pair, ignoring case, spaces and ASCII punctuation."""
    source = row.source.casefold().encode().translate(None, _FORM)
    pair = source + b"\0" + row.target.casefold().encode().translate(None, _FORM)
    return _number(source), _number(pair)


def _number(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
