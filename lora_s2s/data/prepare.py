"""A user's files to a prepared folder: read, check, clean, split, tokenise; the report counts every
row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lora_s2s import __version__
from lora_s2s.console import ProgressLine
from lora_s2s.data import prepared
from lora_s2s.data.characters import DataTokenizer, tokenizer_for
from lora_s2s.data.encode import Encoding, encode_spool, rarely_collected
from lora_s2s.data.findings import Findings, report_of
from lora_s2s.data.identity import (
    Identity,
    identity_of,
    reusable,
    splits_named,
    with_chosen_limits,
    with_split_files,
)
from lora_s2s.data.limits import KEYS, UNBOUNDED, Bounds, Chosen, choose_limits, sampled_lengths
from lora_s2s.data.prepared import PreparedDataset, SplitTable, SplitWriter, open_prepared
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.report import pairs_shown, write_page
from lora_s2s.data.split import DUPLICATE, REASONS, SPLITS, TRAIN, Decisions, decide
from lora_s2s.data.spool import Spool
from lora_s2s.data.survey import Tally
from lora_s2s.errors import DataError
from lora_s2s.examples.causes import hint_for
from lora_s2s.examples.example import Example
from lora_s2s.examples.read import Examples
from lora_s2s.examples.reading import Reading
from lora_s2s.examples.shapes import DIALOGUES
from lora_s2s.files import require_space, sha256_json
from lora_s2s.outputs import whole_folder
from lora_s2s.readers.rows import Rejected, Skipped, reject
from lora_s2s.recipe.schema import DataSection, ModelSection
from lora_s2s.records import PreparedManifest, described, write
from lora_s2s.tokens.added import added_tokens
from lora_s2s.tokens.encoder import encoder_of
from lora_s2s.tokens.loading import LANGUAGES, embedding_rows, load_tokenizer
from lora_s2s.tokens.lossless import ALWAYS, spare_rows
from lora_s2s.tokens.special_tokens import special_token_templates
from lora_s2s.tokens.tokenise import LengthRules

_SPOOL = "spool.arrow"
_PAIRS = 12


def prepare(
    data: DataSection,
    model: ModelSection,
    *,
    out: Path,
    seed: int = 42,
    previews: int = 3,
    strict: bool = False,
    bounds: Bounds = UNBOUNDED,
) -> PreparedDataset:
    """Writes a prepared folder, or opens the existing one where data and settings are the same.

    Exact duplicates in train are dropped, and train rows whose source is held out too (``leaked``
    counts those held out). Without ``validation``, a fraction of train's sources is split off, by a
    hash of source and ``seed``. Test rows are never dropped for their length. A folder whose files
    are called train, dev and test gives all three.

    Args:
        model: whose tokenizer to use: ``name`` and ``revision``.
        previews: how many pairs the report shows.
        strict: stop at the first row that cannot be used.
        bounds: what a limit that is ``auto`` keeps to.

    Raises:
        DataError: data that is missing, unreadable, of which more than ``max_rejected`` cannot be
            used or have targets that are too long, or nothing is left.
        UsageError: an unknown template or language, no unused embedding rows for ``lossless_text``,
            or ``out`` is taken.
        SetupError: the tokenizer cannot be loaded.
    """
    data, out = with_split_files(data), Path(out)
    identity = identity_of(data, model, seed=seed, previews=previews, strict=strict)
    if (existing := reusable(out, identity)) is not None:
        return existing
    languages = {key: getattr(data, key) for key in LANGUAGES}
    tokenizer = load_tokenizer(model.name, model.revision, **languages)
    rows = embedding_rows(tokenizer, model.name, model.revision)
    with whole_folder(out, replace=True) as staging, rarely_collected():
        with Rejections(staging / prepared.REJECTED) as rejected:
            with Spool(staging / _SPOOL, seed, added_tokens(tokenizer)) as spool:
                reading = _read(data, spool, rejected, seed=seed, strict=strict)
            rejected.check(spool.rows, data.max_rejected)
            decisions = _decided(spool, data.validation_fraction)
            made = tokenizer_for(data, tokenizer, rows, spool.characters)
            chosen = _limits(data, spool.path, decisions, made, bounds, seed)
            data = data.model_copy(update={key: limit.tokens for key, limit in chosen.items()})
            sizes, tally = _encode(spool, decisions, made, data, rejected)
            rejected.check_targets(chosen[KEYS["target"]], data.max_rejected, tally)
        findings = Findings(
            reading,
            decisions,
            spool.characters,
            made,
            chosen,
            sizes,
            tally,
            rejected.rows(tally.kept),
            rejected.reasons[REASONS[DUPLICATE]],
            lossless_possible=spare_rows(tokenizer, rows) >= len(ALWAYS),
        )
        report = report_of(data, findings, bounds)
        train = SplitTable(staging / "train.arrow")
        pairs = pairs_shown(train, made.tokenizer, made.carried, max(previews, _PAIRS))
        write_page(staging / prepared.REPORT, report, pairs)
        preview = pairs_shown(train, made.tokenizer, made.carried, previews)
        settings = {**_input(reading, data), **languages, "carried": made.carried}
        write(staging, _manifest(staging, identity, settings, report, preview))
    return open_prepared(out)


def _read(
    data: DataSection, spool: Spool, rejected: Rejections, *, seed: int, strict: bool
) -> Reading:
    """Reads every split into the spool; returns how the training data was read."""
    splits = splits_named(data)
    read = {split: Examples(data, split, seed=seed) for split in splits}
    with ProgressLine("read") as line:
        for split, examples in read.items():
            for item in examples:
                if isinstance(item, Example):
                    # What a column of the table, or its JSON document, says.
                    marked = item.split or split
                    if marked == split or marked not in splits:
                        spool.add(item, SPLITS.index(marked))
                    else:
                        reason = f"row of the {marked} split, which has data of its own"
                        rejected.add(reject(item.where, reason, item.source, fault=False))
                elif strict and not isinstance(item, Skipped):
                    raise _refused(item, others_are_right=spool.rows + spool.waiting > 0)
                else:
                    rejected.add(item)
                if not spool.waiting:
                    line.update({"split": split}, done=spool.rows, total=0)
            spool.flush()
    return read[SPLITS[TRAIN]].reading


def _refused(item: Rejected, *, others_are_right: bool) -> DataError:
    hint = hint_for(item, others_are_right=others_are_right) or "fix it"
    return DataError(
        f"a row cannot be used: {item.reason}",
        where=f"{item.file}:{item.line}",
        hint=f"{hint}; or omit --strict to have such rows listed and left out",
    )


def _decided(spool: Spool, fraction: float) -> Decisions:
    decisions = decide(spool.keys(), fraction)
    # A prepared row is its texts, as in the spool, and their ids.
    require_space(spool.path.parent.parent, int(spool.path.stat().st_size * decisions.kept))
    if not (decisions.code == TRAIN).any():
        raise DataError(
            "nothing is left to train on: every source of the training data also stands in the "
            "validation or test data",
            hint="name other files, or omit data.validation to have a fraction split off",
        )
    return decisions


def _limits(
    data: DataSection,
    spool: Path,
    decisions: Decisions,
    made: DataTokenizer,
    bounds: Bounds,
    seed: int,
) -> dict[str, Chosen]:
    """Returns the two length limits by their keys, chosen where they are ``auto``."""
    encoder, templates = encoder_of(made.tokenizer), special_token_templates(made.tokenizer)
    asked = {side: getattr(data, key) for side, key in KEYS.items()}
    chosen = choose_limits(
        asked, lambda: sampled_lengths(spool, decisions, encoder, templates, seed=seed), bounds
    )
    return {KEYS[side]: limit for side, limit in chosen.items()}


def _encode(
    spool: Spool, decisions: Decisions, made: DataTokenizer, data: DataSection, rejected: Rejections
) -> tuple[Counter[str], Tally]:
    """Writes the splits' files beside the spool and removes it; returns their rows and what was
    counted.

    Args:
        data: with the limits as numbers.
    """
    encoding = Encoding(
        encoder_of(made.tokenizer),
        special_token_templates(made.tokenizer),
        made.tokenizer.unk_token_id,
        _rules(data),
        classes=decisions.classes > 0,
    )
    tally, done = Tally(), 0
    with SplitWriter(spool.path.parent) as writer, ProgressLine("tokenise") as line:
        for encoded in encode_spool(spool.path, decisions, encoding):
            for split, batch in encoded.splits.items():
                writer.add(split, batch)
            for item in encoded.rejected:
                rejected.add(item)
            tally.add(encoded.tally)
            done += encoded.rows
            line.update({}, done=done, total=spool.rows)
    spool.path.unlink()
    if not writer.rows["train"]:
        reasons = rejected.reasons.most_common(4)
        listed = ", ".join(f"{count:,} × {reason}" for reason, count in reasons)
        raise DataError(
            f"nothing is left to train on: {listed}",
            hint="raise data.max_target_tokens or data.max_source_tokens, or set "
            "data.long_targets=cut",
        )
    return writer.rows, tally


def _rules(data: DataSection) -> LengthRules:
    source, target = (int(getattr(data, key)) for key in KEYS.values())
    return LengthRules(source, target, data.truncate_source, data.long_targets)


def _input(reading: Reading, data: DataSection) -> dict[str, Any]:
    """Returns what inference needs to build a source the same way: format, columns and limits as
    they were chosen.
    """
    return {
        "template": reading.template,
        "source_column": reading.source_column,
        "format": reading.format,
        "max_source_tokens": data.max_source_tokens,
        "max_target_tokens": data.max_target_tokens,
        "truncate_source": "left" if reading.format in DIALOGUES else data.truncate_source,
    }


def _manifest(
    folder: Path,
    identity: Identity,
    settings: Mapping[str, Any],
    report: Mapping[str, Any],
    preview: list[Any],
) -> dict[str, Any]:
    made_from = with_chosen_limits(identity, report["limits"])
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
