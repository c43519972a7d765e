"""A user's files to a prepared folder: read, check, clean, split, tokenise; the report counts every row."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lora_s2s import __version__
from lora_s2s.console import ProgressLine
from lora_s2s.data import prepared
from lora_s2s.data.conversations import CONVERSATIONS
from lora_s2s.data.counts import Counts
from lora_s2s.data.example import Example, Rejected, reject
from lora_s2s.data.origins import find_origins
from lora_s2s.data.prepared import SPLITS, PreparedDataset, open_prepared
from lora_s2s.data.readers import how_read, read_examples, user_function
from lora_s2s.data.split import validation_sources
from lora_s2s.data.tokenise import Features, encode_texts, features_of, load_tokenizer, side_for, tokenizer_hash
from lora_s2s.errors import DataError, UsageError
from lora_s2s.files import jsonl_line, sha256_file, sha256_json, whole_folder, write_json, write_text

_CHUNK = 1024


@dataclass(frozen=True)
class _Settings:
    """Everything besides the files themselves that decides what is written."""

    format: str
    source_column: str | None
    target_column: str | None
    template: str | None
    max_source_tokens: int
    max_target_tokens: int
    truncate_source: str
    long_targets: str
    validation_fraction: float
    lossless_text: str
    seed: int
    previews: int


@dataclass
class _Pool:
    """Examples by split on their way, and what was left out so far."""

    splits: dict[str, list[Example]]
    rejected: list[Rejected]
    leaked: int = 0


def prepare(
    *,
    train: str | Sequence[str],
    validation: str | Sequence[str] | None = None,
    test: str | Sequence[str] | None = None,
    format: str = "auto",
    source_column: str | None = None,
    target_column: str | None = None,
    template: str | None = None,
    max_source_tokens: int = 512,
    max_target_tokens: int = 128,
    truncate_source: str = "right",
    long_targets: str = "drop",
    validation_fraction: float = 0.05,
    lossless_text: str = "off",
    model_name: str,
    revision: str | None = None,
    seed: int = 42,
    out: Path,
    limit_preview: int = 3,
) -> PreparedDataset:
    """Writes a prepared folder, or opens the one that stands there when data and settings are the same.

    The keywords up to ``lossless_text`` are the recipe's ``data`` section. Exact duplicate pairs of train are left out,
    and train rows whose source also stands in ``validation`` or ``test`` (``leaked`` counts the held-out rows
    concerned). Without ``validation``, ``validation_fraction`` of train's sources is split off, chosen by a hash of
    the source and ``seed``. Test rows are never left out for their length: a score covers them all.

    Raises:
        DataError: data that is missing, unreadable, or of which nothing is left.
        UsageError: an unknown format or template, or ``out`` holds something else.
        SetupError: the tokenizer cannot be had.
    """
    settings = _Settings(
        format, source_column, target_column, template, max_source_tokens, max_target_tokens, truncate_source,
        long_targets, validation_fraction, lossless_text, seed, limit_preview,
    )  # fmt: skip
    named = {"train": train, "validation": validation, "test": test}
    paths = {name: value for name, value in named.items() if value}
    identity = _identity(paths, settings, tokenizer_hash(model_name, revision))
    fingerprint = sha256_json(identity)
    standing = _standing(Path(out), fingerprint)
    if standing is not None:
        return standing
    tokenizer = load_tokenizer(model_name, revision)
    pool = _clean(_read(paths, settings), settings)
    made = {"fingerprint": fingerprint, "identity": identity, "input": _input(train, settings)}
    with whole_folder(Path(out), replace=True) as staging:
        write_json(staging / prepared.MANIFEST, {**_write(staging, pool, tokenizer, settings), **made})
    return open_prepared(Path(out))


def _identity(paths: dict[str, Any], settings: _Settings, tokenizer: str) -> dict[str, Any]:
    files = {name: [origin.content_hash() for origin in find_origins(value)] for name, value in paths.items()}
    function = ""
    if ":" in settings.format:
        code = sys.modules[user_function(settings.format).__module__].__file__
        function = sha256_file(Path(code)) if code else ""
    return {"format": prepared.FORMAT, "data": files, "tokenizer": tokenizer, "function": function, **_named(settings)}


def _named(settings: _Settings) -> dict[str, Any]:
    values = asdict(settings)
    return {**values, "row_format": values.pop("format")}


def _standing(out: Path, fingerprint: str) -> PreparedDataset | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not prepared.is_prepared(out):
        hint = "choose another folder, or remove this one"
        raise UsageError(f"{out} exists and is not a folder of prepared data", hint=hint)
    try:
        found = open_prepared(out, reused=True)
    except DataError:
        return None  # damaged or of another version: made again, in its place
    return found if found.fingerprint == fingerprint else None


def _read(paths: dict[str, Any], settings: _Settings) -> _Pool:
    pool = _Pool({}, [])
    for split, value in paths.items():
        pool.splits[split] = []
        for row in read_examples(value, **_columns(settings)):
            if isinstance(row, Rejected):
                pool.rejected.append(row)
            else:
                pool.splits[split].append(row)
    return pool


def _columns(settings: _Settings) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in ("format", "source_column", "target_column", "template")}


def _clean(pool: _Pool, settings: _Settings) -> _Pool:
    held_out = [example for split in SPLITS[1:] for example in pool.splits.get(split, [])]
    train_sources = {example.source for example in pool.splits["train"]}
    leaking = {example.source for example in held_out} & train_sources
    pool.leaked = sum(example.source in leaking for example in held_out)
    pool.splits["train"] = list(_unique(pool.splits["train"], leaking, pool.rejected))
    if "validation" not in pool.splits:
        _split_off_validation(pool, settings)
    if not pool.splits["train"]:
        raise DataError(
            "nothing is left to train on: every source of the training data also stands in the validation or test data",
            hint="name other files, or leave data.validation out to have a fraction split off",
        )
    return pool


def _unique(examples: list[Example], leaking: set[str], rejected: list[Rejected]) -> Iterator[Example]:
    seen: set[bytes] = set()
    for example in examples:
        # A digest in place of two long texts: conversations repeat theirs many times.
        pair = hashlib.blake2b(f"{len(example.source)} {example.source}{example.target}".encode()).digest()
        reason = "duplicate" if pair in seen else "leaked" if example.source in leaking else ""
        seen.add(pair)
        if reason:
            rejected.append(reject(example.where, reason, example.source))
        else:
            yield example


def _split_off_validation(pool: _Pool, settings: _Settings) -> None:
    train = pool.splits["train"]
    chosen = validation_sources((row.split_key for row in train), settings.validation_fraction, settings.seed)
    held_out = [row for row in train if row.split_key in chosen]
    if held_out:
        kept = [row for row in train if row.split_key not in chosen]
        pool.splits = {**pool.splits, "train": kept, "validation": held_out}


def _write(folder: Path, pool: _Pool, tokenizer: PreTrainedTokenizerBase, settings: _Settings) -> dict[str, Any]:
    counts = Counts(tokenizer.unk_token_id)
    sizes: dict[str, int] = {}
    preview: list[tuple[str, str]] = []
    total = sum(len(examples) for examples in pool.splits.values())
    with ProgressLine("prepare") as line:
        for split in SPLITS:
            if split not in pool.splits:
                continue
            writing = _Tokenising(split, pool, tokenizer, settings, counts, line, total)
            sizes[split] = prepared.write_split(folder / f"{split}.arrow", writing.chunks())
            preview = preview or writing.preview
    if not sizes["train"]:
        raise _all_left_out(pool)
    lines = "".join(jsonl_line(asdict(item)) for item in pool.rejected)
    write_text(folder / prepared.REJECTED, lines)
    files = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    return {
        "kind": prepared.KIND,
        "format": prepared.FORMAT,
        "version": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "files": {path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in files},
        "report": counts.report(sizes, pool.rejected, pool.leaked),
        "preview": preview,
    }


def _input(train: str | Sequence[str], settings: _Settings) -> dict[str, Any]:
    """What inference needs to build a source the same way, with what was found out (``auto``, columns) spelled out."""
    found = how_read(train, **_columns(settings))
    return {
        "template": settings.template,
        "source_column": found.source_column,
        "format": found.format,
        "max_source_tokens": settings.max_source_tokens,
        "truncate_source": "left" if found.format == CONVERSATIONS else settings.truncate_source,
    }


def _all_left_out(pool: _Pool) -> DataError:
    reasons = Counter(item.kind for item in pool.rejected).most_common(4)
    listed = ", ".join(f"{count:,} × {reason}" for reason, count in reasons)
    return DataError(
        f"nothing is left to train on: {listed}",
        hint="raise data.max_target_tokens or data.max_source_tokens, or set data.long_targets=cut",
    )


@dataclass
class _Tokenising:
    """One split through the tokenizer, chunk by chunk; the texts of a chunk are encoded once each."""

    split: str
    pool: _Pool
    tokenizer: PreTrainedTokenizerBase
    settings: _Settings
    counts: Counts
    line: ProgressLine
    total: int
    preview: list[tuple[str, str]] = field(default_factory=list)

    def chunks(self) -> Iterator[list[tuple[Example, Features]]]:
        """Yields kept examples with their features."""
        examples = iter(self.pool.splits[self.split])
        while chunk := list(islice(examples, _CHUNK)):
            kept = list(self._kept(chunk))
            if len(self.preview) < self.settings.previews:
                self._show(kept)
            self.line.update({"split": self.split}, done=len(self.counts.source.lengths), total=self.total)
            if kept:
                yield kept

    def _kept(self, chunk: list[Example]) -> Iterator[tuple[Example, Features]]:
        texts = list(dict.fromkeys(text for example in chunk for text in (example.source, example.target)))
        ids = dict(zip(texts, encode_texts(texts, self.tokenizer), strict=True))
        for example in chunk:
            source, target = ids[example.source], ids[example.target]
            features = self._features(example, source, target)
            self.counts.add(source, target, features)
            if isinstance(features, str):
                self.pool.rejected.append(reject(example.where, features, example.target))
            else:
                yield example, features

    def _features(self, example: Example, source: list[int], target: list[int]) -> Features | str:
        settings = self.settings
        scored = self.split == "test"
        side = side_for(example, settings.truncate_source)
        return features_of(
            source,
            target,
            int(self.tokenizer.eos_token_id),
            max_source_tokens=settings.max_source_tokens,
            max_target_tokens=settings.max_target_tokens,
            truncate_source=side_for(example, "right") if scored and side == "drop" else side,
            long_targets="keep" if scored else settings.long_targets,
        )

    def _show(self, kept: list[tuple[Example, Features]]) -> None:
        wanted = self.settings.previews - len(self.preview)
        for _, features in kept[:: max(1, len(kept) // max(1, wanted))][:wanted]:
            source, target = (self.tokenizer.decode(ids) for ids in (features.input_ids, features.labels))
            self.preview.append((str(source), str(target)))
