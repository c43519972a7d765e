"""Data files to a prepared folder: read, check, clean, split, tokenise, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.data.characters import BaseTokenizer, tokenizer_for
from lora_s2s.data.encode import rarely_collected, write_splits
from lora_s2s.data.findings import Findings, report_of
from lora_s2s.data.gather import gather, gather_joined, with_split_files
from lora_s2s.data.limits import KEYS, UNBOUNDED, Bounds, limits_of
from lora_s2s.data.manifest import Identity, identity_of, input_settings, manifest_of, reusable
from lora_s2s.data.prepared import (
    REJECTED,
    REPORT,
    PreparedDataset,
    SplitTable,
    open_prepared,
)
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.report import sample_pairs
from lora_s2s.data.shards import JoinedShards, identity_of_shard, shards_beside
from lora_s2s.data.split import decide
from lora_s2s.data.spool import Spool, Spooled
from lora_s2s.examples.reading import Reading
from lora_s2s.files import require_space
from lora_s2s.outputs import whole_folder
from lora_s2s.recipe.schema import DataSection, ModelSection
from lora_s2s.records import write
from lora_s2s.reports.data_page import write_data_page

_SPOOL = "spool.arrow"
_PAIRS = 12


@dataclass(frozen=True)
class _Work:
    """What is prepared, and with which settings."""

    data: DataSection
    identity: Identity
    base: BaseTokenizer
    seed: int
    previews: int
    bounds: Bounds


def prepare(
    data: DataSection,
    model: ModelSection,
    *,
    out: Path,
    seed: int = 42,
    previews: int = 3,
    strict: bool = False,
    bounds: Bounds = UNBOUNDED,
    join: bool = False,
) -> PreparedDataset:
    """Writes a prepared folder, or opens an existing one of the same data and settings.

    Drops exact duplicates in train, and train rows whose source is also held out (``leaked`` counts
    these held-out rows). Without ``validation``, holds out a fraction of train's sources by a hash
    of source and ``seed``. Never drops test rows for their length. A folder with files named train,
    dev and test provides all three splits.

    Args:
        model: ``name`` and ``revision`` of the tokenizer.
        previews: how many pairs the report shows.
        strict: stop at the first unusable row.
        bounds: upper bounds for ``auto`` limits.
        join: take the rows from the shards that :func:`prepare_shard` made, and remove these.

    Raises:
        DataError: data is missing or unreadable, more than ``max_rejected`` of it is unusable or
            has too long targets, or nothing is left; or a shard is missing or of other data.
        UsageError: an unknown template or language, no unused embedding rows for ``lossless_text``,
            or ``out`` is something else.
        SetupError: the tokenizer cannot be loaded.
    """
    data, out = with_split_files(data), Path(out)
    identity = identity_of(data, model, seed=seed, previews=previews, strict=strict)
    if (existing := reusable(out, identity)) is not None:
        return existing
    shards = JoinedShards(shards_beside(out), identity_of_shard(identity)) if join else None
    base = BaseTokenizer.load(data, model)
    work = _Work(data, identity, base, seed, previews, bounds)
    with whole_folder(out, replace=True) as folder, rarely_collected():
        with Rejections(folder / REJECTED) as rejected:
            if shards is None:
                with Spool(folder / _SPOOL, seed, base.added_tokens) as spool:
                    reading = gather(data, spool, rejected, seed=seed, strict=strict)
                findings = _write_splits(folder, work, spool, reading, rejected)
            else:
                reading = gather_joined(data, shards, rejected, seed=seed)
                findings = _write_splits(folder, work, shards, reading, rejected)
        _write_report(folder, work, findings)
    if shards is not None:
        shards.remove()
    return open_prepared(out)


def _write_splits(
    folder: Path, work: _Work, spool: Spooled, reading: Reading, rejected: Rejections
) -> Findings:
    """Decides on the rows and writes the splits."""
    data, base = work.data, work.base
    rejected.check(spool.rows, data.max_rejected)
    decisions = decide(spool.keys(), data.validation_fraction)
    # Prepared rows have the spool's texts and their ids.
    require_space(folder.parent, int(spool.size * decisions.kept))
    chosen = tokenizer_for(data, base, spool.characters)
    if spool.tokenised and chosen.tokenizer is not base.tokenizer:
        say("the tokenizer is changed for this data: the join tokenises it again")
        spool.tokenised = False
    limits = limits_of(data, spool, decisions, chosen.tokenizer, work.bounds, work.seed)
    data = data.model_copy(update={key: limit.tokens for key, limit in limits.items()})
    sizes, tally = write_splits(folder, spool, decisions, chosen.tokenizer, data, rejected)
    rejected.check_targets(limits[KEYS["target"]], data.max_rejected, tally)
    return Findings(
        data, reading, decisions, spool.characters, base, chosen, limits, sizes, tally, rejected
    )


def _write_report(folder: Path, work: _Work, findings: Findings) -> None:
    """Writes the report and the manifest."""
    tokenizer = findings.tokenizer
    report = report_of(findings, work.bounds)
    train = SplitTable(folder / "train.arrow")
    pairs = sample_pairs(train, tokenizer, max(work.previews, _PAIRS))
    write_data_page(folder / REPORT, report, pairs)
    settings = input_settings(findings.data, findings.reading, tokenizer.lossless)
    preview = sample_pairs(train, tokenizer, work.previews)
    write(folder, manifest_of(folder, work.identity, settings, report, preview))
