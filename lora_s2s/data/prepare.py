"""A user's files to a prepared folder: read, check, clean, split, tokenise; the report counts every row."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lora_s2s import __version__
from lora_s2s.console import ProgressLine
from lora_s2s.data import prepared
from lora_s2s.data.prepared import SPLITS, PreparedDataset, SplitTable, open_prepared
from lora_s2s.data.split import validation_sources
from lora_s2s.data.tokenise import (
    Features,
    Frames,
    encode_texts,
    features_of,
    frames_of,
    load_tokenizer,
    side_for,
    tokenizer_hash,
)
from lora_s2s.errors import DataError, UsageError
from lora_s2s.files import jsonl_line, sha256_file, sha256_json, whole_folder, write_json, write_text
from lora_s2s.reading.example import Example, Rejected, reject
from lora_s2s.reading.origins import find_origins
from lora_s2s.reading.readers import how_read, read_examples, user_function
from lora_s2s.reading.shapes import DIALOGUES
from lora_s2s.reading.template import Template

_CHUNK = 1024
_SIDES = ("source", "target")


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
    template: Template = None,
    max_source_tokens: int = 512,
    max_target_tokens: int = 128,
    truncate_source: str = "right",
    long_targets: str = "drop",
    validation_fraction: float = 0.05,
    lossless_text: str = "off",
    source_language: str | None = None,
    target_language: str | None = None,
    model_name: str,
    revision: str | None = None,
    seed: int = 42,
    out: Path,
    limit_preview: int = 3,
) -> PreparedDataset:
    """Writes a prepared folder, or opens the one that stands there when data and settings are the same.

    The keywords up to ``target_language`` are the recipe's ``data`` section. Exact duplicate pairs of train are left
    out, and train rows whose source also stands in ``validation`` or ``test`` (``leaked`` counts the held-out rows
    concerned). Without ``validation``, ``validation_fraction`` of train's sources is split off, chosen by a hash of
    the source and ``seed``. Test rows are never left out for their length: a score covers them all.

    Raises:
        DataError: data that is missing, unreadable, or of which nothing is left.
        UsageError: an unknown format, template or language, or ``out`` holds something else.
        SetupError: the tokenizer cannot be had.
    """
    held_out = {"validation": validation, "test": test}
    paths = {"train": train, **{name: value for name, value in held_out.items() if value}}
    reading = {
        "format": format, "source_column": source_column, "target_column": target_column, "template": template,
    }  # fmt: skip
    limits = {
        "max_source_tokens": max_source_tokens, "max_target_tokens": max_target_tokens,
        "truncate_source": truncate_source, "long_targets": long_targets,
    }  # fmt: skip
    languages = {"source_language": source_language, "target_language": target_language}
    identity = {
        "format": prepared.FORMAT,
        "data": {name: [origin.content_hash() for origin in find_origins(value)] for name, value in paths.items()},
        "tokenizer": tokenizer_hash(model_name, revision),
        "function": _code_hash(format),
        "settings": {**reading, **limits, **languages, "lossless_text": lossless_text, "previews": limit_preview},
        "split": [validation_fraction, seed],
    }
    fingerprint = sha256_json(identity)
    standing = _standing(Path(out), fingerprint)
    if standing is not None:
        return standing
    tokenizer = load_tokenizer(model_name, revision, **languages)
    pool = _read(paths, {**reading, "seed": seed})
    _clean(pool, validation_fraction, seed)
    with whole_folder(Path(out), replace=True) as staging:
        made = _write(staging, pool, tokenizer, limits, limit_preview)
        made |= {
            "fingerprint": fingerprint,
            "identity": identity,
            "input": {**_input(train, reading, limits), **languages},
        }
        write_json(staging / prepared.MANIFEST, made)
    return open_prepared(Path(out))


def _code_hash(format: str) -> str:
    """Returns a hash of the file that holds the user's own function, if the format is one."""
    module = sys.modules.get(getattr(user_function(format), "__module__", "")) if ":" in format else None
    code = getattr(module, "__file__", None)
    return sha256_file(Path(code)) if code else ""


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


def _read(paths: dict[str, Any], reading: dict[str, Any]) -> _Pool:
    pool = _Pool({}, [])
    for split, value in paths.items():
        rows = list(read_examples(value, **reading))
        pool.splits[split] = [row for row in rows if isinstance(row, Example)]
        pool.rejected += [row for row in rows if isinstance(row, Rejected)]
    return pool


def _clean(pool: _Pool, fraction: float, seed: int) -> None:
    """Takes duplicates and leaks out of train, and splits validation off where none was named."""
    held_out = [example for split in SPLITS[1:] for example in pool.splits.get(split, [])]
    train_sources = {example.source for example in pool.splits["train"]}
    leaking = {example.source for example in held_out} & train_sources
    pool.leaked = sum(example.source in leaking for example in held_out)
    pool.splits["train"] = list(_unique(pool.splits["train"], leaking, pool.rejected))
    if "validation" not in pool.splits:
        train = pool.splits["train"]
        chosen = validation_sources((row.split_key for row in train), fraction, seed)
        if chosen:
            pool.splits["train"] = [row for row in train if row.split_key not in chosen]
            pool.splits["validation"] = [row for row in train if row.split_key in chosen]
    if not pool.splits["train"]:
        raise DataError(
            "nothing is left to train on: every source of the training data also stands in the validation or test data",
            hint="name other files, or leave data.validation out to have a fraction split off",
        )


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


def _write(
    folder: Path, pool: _Pool, tokenizer: PreTrainedTokenizerBase, limits: dict[str, Any], previews: int
) -> dict[str, Any]:
    counts = _Counts(tokenizer.unk_token_id, frames_of(tokenizer))
    sizes: dict[str, int] = {}
    with ProgressLine("prepare") as line:
        for split in (name for name in SPLITS if name in pool.splits):
            chunks = _tokenised(split, pool, tokenizer, limits, counts, line)
            sizes[split] = prepared.write_split(folder / f"{split}.arrow", chunks)
    if not sizes["train"]:
        reasons = Counter(item.kind for item in pool.rejected).most_common(4)
        raise DataError(
            f"nothing is left to train on: {', '.join(f'{count:,} × {reason}' for reason, count in reasons)}",
            hint="raise data.max_target_tokens or data.max_source_tokens, or set data.long_targets=cut",
        )
    write_text(folder / prepared.REJECTED, "".join(jsonl_line(asdict(item)) for item in pool.rejected))
    files = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    return {
        "kind": prepared.KIND,
        "format": prepared.FORMAT,
        "version": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "files": {path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in files},
        "report": counts.report(sizes, pool.rejected, pool.leaked),
        "preview": _preview(SplitTable(folder / "train.arrow"), tokenizer, previews),
    }


def _input(train: str | Sequence[str], reading: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """What inference needs to build a source the same way, with what was found out (``auto``, columns) spelled out."""
    found = how_read(train, **reading)
    return {
        "template": found.template,
        "source_column": found.source_column,
        "format": found.format,
        "max_source_tokens": limits["max_source_tokens"],
        "truncate_source": "left" if found.format in DIALOGUES else limits["truncate_source"],
    }


def _tokenised(
    split: str,
    pool: _Pool,
    tokenizer: PreTrainedTokenizerBase,
    limits: dict[str, Any],
    counts: _Counts,
    line: ProgressLine,
) -> Iterator[list[tuple[Example, Features]]]:
    """Yields one split's kept examples with their features, chunk by chunk; a chunk's texts are encoded once each."""
    examples, total = pool.splits[split], sum(map(len, pool.splits.values()))
    if split == "test":  # a score covers every row
        side = limits["truncate_source"]
        limits = {**limits, "long_targets": "keep", "truncate_source": "right" if side == "drop" else side}
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        source_ids = _encoded((example.source for example in chunk), tokenizer, "text")
        target_ids = _encoded((example.target for example in chunk), tokenizer, "text_target")
        kept: list[tuple[Example, Features]] = []
        for example in chunk:
            source, target = source_ids[example.source], target_ids[example.target]
            own = {**limits, "truncate_source": side_for(example, limits["truncate_source"])}
            features = features_of(source, target, counts.frames, **own)
            counts.add(source, target, features)
            if isinstance(features, str):
                pool.rejected.append(reject(example.where, features, example.target))
            else:
                kept.append((example, features))
        line.update({"split": split}, done=counts.seen, total=total)
        if kept:
            yield kept


def _encoded(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, side: str) -> dict[str, list[int]]:
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, encode_texts(distinct, tokenizer, side=side), strict=True))


def _preview(table: SplitTable, tokenizer: PreTrainedTokenizerBase, count: int) -> list[tuple[str, str]]:
    rows = [table.features(index) for index in range(0, len(table), max(1, len(table) // max(1, count)))[:count]]
    return [(str(tokenizer.decode(row.input_ids)), str(tokenizer.decode(row.labels))) for row in rows]


class _Counts:
    """Both sides of all splits. Lengths cover pairs left out for their length too: they are what a limit is set by."""

    def __init__(self, unknown_id: int | None, frames: Frames) -> None:
        self.unknown_id = -1 if unknown_id is None else unknown_id
        self.frames = frames
        self.lengths: dict[str, list[int]] = {side: [] for side in _SIDES}  # in their frames, before any cut
        self.truncated = dict.fromkeys(_SIDES, 0)
        self.tokens, self.unknown = Counter[str](), Counter[str]()

    @property
    def seen(self) -> int:
        """How many pairs were counted, kept or not."""
        return len(self.lengths["source"])

    def add(self, source: list[int], target: list[int], features: Features | str) -> None:
        """Counts one tokenised pair (nothing cut yet), kept (features) or not (a reason)."""
        for side, ids in zip(_SIDES, (source, target), strict=True):
            self.lengths[side].append(len(ids) + len(getattr(self.frames, side)))
            if not isinstance(features, str):
                self.truncated[side] += getattr(features, f"{side}_truncated")
                self.tokens[side] += len(ids)
                self.unknown[side] += ids.count(self.unknown_id)

    def report(self, splits: Mapping[str, int], rejected: Iterable[Rejected], leaked: int) -> dict[str, Any]:
        """Returns the report of ``prepare``, but for ``out``."""
        reasons = Counter(item.kind for item in rejected)
        kept, left_out = sum(splits.values()), reasons.total()
        return {
            "rows": {
                "read": kept + left_out, "kept": kept, "rejected": left_out, "by_reason": dict(reasons.most_common()),
            },
            "splits": dict(splits),
            **{f"{side}_tokens": _quantiles(self.lengths[side]) for side in _SIDES},
            "truncated": dict(self.truncated),
            "unknown_tokens": {side: round(self.unknown[side] / max(1, self.tokens[side]), 6) for side in _SIDES},
            "duplicates": reasons["duplicate"],
            "leaked": leaked,
        }  # fmt: skip


def _quantiles(lengths: list[int]) -> dict[str, int]:
    p50, p95, top = np.percentile(lengths or [0], [50, 95, 100], method="higher")
    return {"p50": int(p50), "p95": int(p95), "max": int(top)}
