"""A user's files to a prepared folder: read, check, clean, split, tokenise; the report counts every
row.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lora_s2s import __version__
from lora_s2s.console import ProgressLine, counted, say, warn
from lora_s2s.data import prepared
from lora_s2s.data.characters import characters_report, tokenizer_for
from lora_s2s.data.columns import ambiguity, column_warnings, columns_line
from lora_s2s.data.encode import Encoding, encode_spool, rarely_collected
from lora_s2s.data.limits import (
    KEYS,
    UNBOUNDED,
    Bounds,
    Chosen,
    Limit,
    choose_limits,
    sampled_lengths,
)
from lora_s2s.data.prepared import PreparedDataset, SplitTable, SplitWriter, open_prepared
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.report import advice, limit_warnings, pairs_shown, write_page
from lora_s2s.data.split import DUPLICATE, REASONS, SPLITS, TRAIN, Decisions, decide
from lora_s2s.data.spool import Spool
from lora_s2s.data.survey import Tally, tokens_report
from lora_s2s.errors import DataError, SetupError, UsageError
from lora_s2s.examples.causes import hint_for
from lora_s2s.examples.example import Example
from lora_s2s.examples.readers import how_read, read_examples, user_function
from lora_s2s.examples.record import Reading
from lora_s2s.examples.shapes import DIALOGUES
from lora_s2s.examples.template import Template
from lora_s2s.files import (
    code_hash,
    read_json,
    require_space,
    sha256_file,
    sha256_json,
)
from lora_s2s.hub import locate_model
from lora_s2s.outputs import whole_folder
from lora_s2s.readers.origins import find_origins, named_splits
from lora_s2s.readers.rows import Rejected, Skipped, reject
from lora_s2s.recipe.fields import AUTO
from lora_s2s.records import PreparedManifest, described, write
from lora_s2s.tokens.added import added_tokens
from lora_s2s.tokens.lossless import ALWAYS, spare_rows
from lora_s2s.tokens.tokenise import (
    LANGUAGES,
    encoder_of,
    frames_of,
    load_tokenizer,
    tokenizer_hash,
)

_SPOOL = "spool.arrow"
_PAIRS = 12
_ROOMS = ("readers", "examples", "tokens", "data")


def prepare(
    *,
    train: str | Sequence[str],
    validation: str | Sequence[str] | None = None,
    test: str | Sequence[str] | None = None,
    format: str = "auto",
    source_column: str | None = None,
    target_column: str | None = None,
    template: Template = None,
    max_source_tokens: Limit = AUTO,
    max_target_tokens: Limit = AUTO,
    truncate_source: str = "right",
    long_targets: str = "drop",
    validation_fraction: float = 0.05,
    lossless_text: str = "auto",
    special_tokens: str = "auto",
    max_rejected: float = 0.01,
    source_language: str | None = None,
    target_language: str | None = None,
    model_name: str,
    revision: str | None = None,
    seed: int = 42,
    out: Path,
    previews: int = 3,
    strict: bool = False,
    processes: int | None = None,
    bounds: Bounds = UNBOUNDED,
) -> PreparedDataset:
    """Writes a prepared folder, or opens the one that stands there when data and settings are the
    same.

    The keywords up to ``target_language`` are the recipe's ``data`` section. Exact duplicates in
    train are dropped, and train rows whose source is held out too (``leaked`` counts those held
    out). Without ``validation``, a fraction of train's sources is split off, by a hash of source
    and ``seed``. Test rows are never dropped for their length. A folder whose files are called
    train, dev and test gives all three.

    Args:
        previews: how many pairs the report shows.
        strict: whether the first row that cannot be used ends it all.
        processes: see :func:`lora_s2s.data.encode.encode_spool`.
        bounds: what a limit that is ``auto`` keeps to.

    Raises:
        DataError: data that is missing, unreadable, of which more than ``max_rejected`` cannot be
            used or have targets that are too long, or nothing is left.
        UsageError: an unknown format, template or language, no spare rows for ``lossless_text``, or
            ``out`` is taken.
        SetupError: the tokenizer cannot be had.
    """
    paths = _paths(train, validation, test)
    reading: dict[str, Any] = {
        "format": format,
        "source_column": source_column,
        "target_column": target_column,
        "template": template,
    }
    limits = {
        "max_source_tokens": max_source_tokens,
        "max_target_tokens": max_target_tokens,
        "truncate_source": truncate_source,
        "long_targets": long_targets,
    }
    modes = (lossless_text, special_tokens)
    languages = dict(zip(LANGUAGES, (source_language, target_language), strict=True))
    identity = _identity(
        paths,
        format,
        tokenizer_hash(model_name, revision),
        settings={**reading, **limits, **languages, "modes": modes, "previews": previews},
        split=[validation_fraction, max_rejected, seed, strict],
    )
    if (standing := _standing(Path(out), identity)) is not None:
        return standing
    tokenizer = load_tokenizer(model_name, revision, **languages)
    rows = embedding_rows(tokenizer, model_name, revision)
    spare = spare_rows(tokenizer, rows) >= len(ALWAYS)
    with whole_folder(Path(out), replace=True) as staging, rarely_collected():
        with Rejections(staging / prepared.REJECTED) as rejected:
            with Spool(staging / _SPOOL, seed, added_tokens(tokenizer)) as spool:
                _read(paths, reading, spool, rejected, seed=seed, strict=strict)
            rejected.check(spool.rows, max_rejected)
            decisions = _decided(spool, validation_fraction)
            made, carried, added = tokenizer_for(modes, tokenizer, rows, spool.characters)
            chosen = _limits(limits, spool.path, decisions, made, bounds, seed)
            limits |= {key: limit.tokens for key, limit in chosen.items()}
            sizes, tally = _encode(staging, spool, decisions, made, limits, rejected, processes)
            rejected.check_targets(chosen[KEYS["target"]], max_rejected, tally)
        report = _report(rejected, decisions, sizes, tally, chosen) | {"special_tokens": added}
        report |= characters_report(made, carried, spool.characters)
        found = how_read(paths["train"], **reading)
        report |= {
            "files": {split: _listed(value) for split, value in paths.items()},
            **_heavy(report, bounds),
        }
        report |= _told(found, decisions, report, limits, spare=spare)
        pairs = pairs_shown(
            SplitTable(staging / "train.arrow"), made, carried, max(previews, _PAIRS)
        )
        write_page(staging / prepared.REPORT, report, pairs)
        shown = pairs_shown(SplitTable(staging / "train.arrow"), made, carried, previews)
        settings = {**_input(found, limits), **languages, "carried": carried}
        write(staging, _manifest(staging, identity, settings, report, shown))
    return open_prepared(Path(out))


def _identity(
    paths: Mapping[str, Any], format: str, tokenizer: str, **settings: Any
) -> dict[str, Any]:
    """Returns all that a prepared folder depends on."""
    return {
        "format": PreparedManifest.version["format"],
        "code": code_hash(*_ROOMS),
        "data": {name: _content(value, format, name) for name, value in paths.items()},
        "tokenizer": tokenizer,
        "function": _function_hash(format),
        **settings,
    }


def _report(
    rejected: Rejections,
    decisions: Decisions,
    sizes: Counter[str],
    tally: Tally,
    chosen: Mapping[str, Chosen],
) -> dict[str, Any]:
    return {
        "rows": rejected.rows(tally.kept),
        "splits": {split: sizes[split] for split in SPLITS if sizes[split]},
        **tokens_report(tally),
        "duplicates": rejected.reasons[REASONS[DUPLICATE]],
        "leaked": decisions.leaked,
        "limits": {key: asdict(limit) for key, limit in chosen.items()},
    }


def _manifest(
    folder: Path,
    identity: dict[str, Any],
    settings: dict[str, Any],
    report: dict[str, Any],
    preview: list[Any],
) -> dict[str, Any]:
    made_from = _with_limits(identity, report)
    return {
        **PreparedManifest.version,
        "version": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fingerprint": sha256_json(made_from),
        "identity": made_from,
        "input": {**settings, "special_tokens": [*report["special_tokens"]["used"]]},
        "files": described(path for path in folder.iterdir() if path.name[0] != "."),
        "report": report,
        "preview": preview,
    }


def _content(paths: Any, format: str, split: str) -> list[Any]:
    origins = find_origins(paths, parallel=format == "parallel")
    if split != SPLITS[TRAIN] and any(origin.weight > 1 for origin in origins):
        warn(
            f"data.{split}: a weight above 1 counts as 1; below 1 it is the share of the rows that "
            "are taken"
        )
    return [[origin.content_hash(), origin.weight] for origin in origins]


def made_from_same(data: PreparedDataset, named: Mapping[str, Any], format: str) -> bool:
    """Whether files of these names still hold what a folder was prepared from."""
    try:
        content = {name: _content(value, format, name) for name, value in _paths(**named).items()}
    except (DataError, SetupError):
        return False
    return data.manifest.identity.data == content


def _paths(train: Any, validation: Any, test: Any) -> dict[str, Any]:
    """Returns what is read for each split; a folder named alone may hold all of them, told by its
    files' names.
    """
    named = {"train": train, "validation": validation, "test": test}
    if isinstance(train, str) and not validation and not test:
        found = named_splits(train)
        others = found.pop("other", [])
        if len(found) > 1:
            listed = ", ".join(f"{split} {len(files)}" for split, files in found.items())
            say(f"{train}: the files' names tell the splits ({listed})")
            if others:
                names = f"{Path(others[0]).name}{', …' if len(others) > 1 else ''}"
                warn(
                    f"{train}: {counted(len(others), 'file')} left out, no split in the name: "
                    f"{names}"
                )
            return found
    return {split: value for split, value in named.items() if value or split == "train"}


def _function_hash(format: str) -> str:
    """Returns a hash of the file that holds the user's own function, if the format is one."""
    module = (
        sys.modules.get(getattr(user_function(format), "__module__", "")) if ":" in format else None
    )
    code = getattr(module, "__file__", None)
    return sha256_file(Path(code)) if code else ""


def _with_limits(identity: dict[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a folder is made from with the numbers that its report has for limits that are
    ``auto``.
    """
    settings = dict(identity["settings"])
    for key, limit in report["limits"].items():
        if settings[key] == AUTO and limit["by"] != "recipe":
            settings[key] = limit["tokens"]
    return {**identity, "settings": settings}


def _standing(out: Path, identity: dict[str, Any]) -> PreparedDataset | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not prepared.is_prepared(out):
        hint = "choose another folder, or remove this one"
        raise UsageError(f"{out} exists and is not a folder of prepared data", hint=hint)
    try:
        found = open_prepared(out, reused=True)
    except DataError:
        return None  # damaged or of another version: made again, in its place
    same = found.fingerprint == sha256_json(_with_limits(identity, found.report))
    return found if same else None


def embedding_rows(tokenizer: Sized, model_name: str, revision: str | None) -> int:
    """Returns how many rows a base's embeddings have; of a tokenizer alone, its entries padded to
    128 as T5's are.
    """
    folder = locate_model(model_name, revision, weights=False)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    rows = config.get("vocab_size") if isinstance(config, dict) else None
    if isinstance(rows, int):
        return rows
    return -(-len(tokenizer) // 128) * 128


def _read(
    paths: Mapping[str, Any],
    reading: dict[str, Any],
    spool: Spool,
    rejected: Rejections,
    *,
    seed: int,
    strict: bool,
) -> None:
    """Reads every split into the spool."""
    with ProgressLine("read") as line:
        for split, value in paths.items():
            for item in read_examples(value, **reading, seed=seed, split=split):
                if isinstance(item, Example):
                    own = (
                        item.split or split
                    )  # what a column of the table, or its JSON document, says
                    if own == split or own not in paths:
                        spool.add(item, SPLITS.index(own))
                    else:
                        reason = f"row of the {own} split, which has data of its own"
                        rejected.add(reject(item.where, reason, item.source, fault=False))
                elif strict and not isinstance(item, Skipped):
                    raise _refused(item, others_are_right=spool.rows + spool.waiting > 0)
                else:
                    rejected.add(item)
                if not spool.waiting:
                    line.update({"split": split}, done=spool.rows, total=0)
            spool.flush()


def _refused(item: Rejected, *, others_are_right: bool) -> DataError:
    hint = hint_for(item, others_are_right=others_are_right) or "fix it"
    return DataError(
        f"a row cannot be used: {item.reason}",
        where=f"{item.file}:{item.line}",
        hint=f"{hint}; or omit --strict to have such rows listed and left out",
    )


def _limits(
    limits: Mapping[str, Any],
    spool: Path,
    decisions: Decisions,
    tokenizer: Any,
    bounds: Bounds,
    seed: int,
) -> dict[str, Chosen]:
    """Returns the two length limits by their keys, chosen where they are ``auto``."""
    encoder, frames = encoder_of(tokenizer), frames_of(tokenizer)
    asked = {side: limits[key] for side, key in KEYS.items()}
    chosen = choose_limits(
        asked, lambda: sampled_lengths(spool, decisions, encoder, frames, seed=seed), bounds
    )
    return {KEYS[side]: limit for side, limit in chosen.items()}


def _decided(spool: Spool, fraction: float) -> Decisions:
    decisions = decide(spool.keys(), fraction)
    # A prepared row is its texts, as in the spool, and their ids.
    require_space(spool.path.parent.parent, int(spool.path.stat().st_size * decisions.kept))
    if not (decisions.code == TRAIN).any():
        raise DataError(
            "nothing is left to train on: every source of the training data also stands in the "
            "validation or test data",
            hint="name other files, or leave data.validation out to have a fraction split off",
        )
    return decisions


def _encode(
    folder: Path,
    spool: Spool,
    decisions: Decisions,
    tokenizer: Any,
    limits: dict[str, Any],
    rejected: Rejections,
    processes: int | None,
) -> tuple[Counter[str], Tally]:
    """Writes the splits' files and takes the spool away; returns their rows and what was
    counted.
    """
    frames, unknown = frames_of(tokenizer), tokenizer.unk_token_id
    encoding = Encoding(encoder_of(tokenizer), frames, unknown, limits, decisions.classes > 0)
    tally, done = Tally(), 0
    with SplitWriter(folder) as writer, ProgressLine("tokenise") as line:
        for encoded in encode_spool(spool.path, decisions, encoding, processes=processes):
            for split, (batch, rows) in encoded.splits.items():
                writer.add(split, batch, rows)
            for item in encoded.rejected:
                rejected.add(item)
            tally.add(encoded.tally)
            done += encoded.rows
            line.update({}, done=done, total=spool.rows)
    spool.path.unlink()
    if not writer.rows["train"]:
        reasons = rejected.reasons.most_common(4)
        raise DataError(
            "nothing is left to train on: "
            f"{', '.join(f'{count:,} × {reason}' for reason, count in reasons)}",
            hint="raise data.max_target_tokens or data.max_source_tokens, or set "
            "data.long_targets=cut",
        )
    return writer.rows, tally


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [*map(str, value)]


def _heavy(report: Mapping[str, Any], bounds: Bounds) -> dict[str, Any]:
    """Returns what one row of a suggested limit takes, by side, where this machine has not that
    much memory.
    """
    needed = {}
    for side, key in KEYS.items():
        tokens = {other: limit["tokens"] for other, limit in report["limits"].items()}
        tokens[key] = report["suggested"][key]
        lengths = [tokens[each] for each in KEYS.values()]
        if bounds.row_bytes is not None and not bounds.fits(lengths[0], lengths[1]):
            needed[side] = bounds.row_bytes(lengths[0], lengths[1])
    return {"suggested_bytes": needed}


def _told(
    found: Reading,
    decisions: Decisions,
    report: Mapping[str, Any],
    limits: Mapping[str, Any],
    *,
    spare: bool,
) -> dict[str, Any]:
    """Returns the parts of the report that are sentences: columns, warnings, advice."""
    notes, warnings = ambiguity(found, decisions, report["splits"].get("train", 0))
    return {
        "columns": found.to_json(),
        "columns_line": columns_line(found),
        "several_targets": decisions.ambiguous,
        "repeated_pairs": decisions.repeated,
        "warnings": [*column_warnings(found), *warnings, *limit_warnings(report)],
        "advice": [*found.notes, *notes, *advice(report, limits, spare=spare)],
    }


def _input(found: Reading, limits: Mapping[str, Any]) -> dict[str, Any]:
    """What inference needs to build a source the same way, with what was found out (``auto``,
    columns) spelled out.
    """
    return {
        "template": found.template,
        "source_column": found.source_column,
        "format": found.format,
        "max_source_tokens": limits["max_source_tokens"],
        "max_target_tokens": limits["max_target_tokens"],
        "truncate_source": "left" if found.format in DIALOGUES else limits["truncate_source"],
    }
