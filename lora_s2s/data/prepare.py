"""Data files to a prepared folder: read, check, clean, split, tokenise, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_s2s.data.characters import BaseTokenizer
from lora_s2s.data.decided import Work, decide_and_write
from lora_s2s.data.encode import rarely_collected
from lora_s2s.data.findings import Findings, report_of, sample_pairs
from lora_s2s.data.gather import gather, gather_joined
from lora_s2s.data.limits import UNBOUNDED, Bounds
from lora_s2s.data.manifest import identity_of, input_settings, manifest_of, reusable
from lora_s2s.data.prepared import (
    REJECTED,
    REPORT,
    PreparedDataset,
    SplitTable,
    open_prepared,
)
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.shards import JoinedShards, identity_of_shard, shards_beside
from lora_s2s.data.split_files import with_split_files
from lora_s2s.data.spool import Spool
from lora_s2s.outputs import whole_folder
from lora_s2s.recipe.schema import DataSection, ModelSection
from lora_s2s.records import write
from lora_s2s.reports.data_page import write_data_page

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
    shards: Sequence[Path] | None = None,
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
        shards: the folders of all shards of the data, to take its rows from.

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
    joined = None
    if shards is not None:
        joined = JoinedShards(shards, str(shards_beside(out)), identity_of_shard(identity))
    base = BaseTokenizer.load(data, model)
    work = Work(data, identity, base, seed, previews, bounds)
    with whole_folder(out, replace=True) as folder, rarely_collected():
        with Rejections(folder / REJECTED) as rejected:
            if joined is None:
                with Spool(folder / _SPOOL, seed, base.added_tokens) as spool:
                    reading = gather(data, spool, rejected, seed=seed, strict=strict)
                findings = decide_and_write(folder, work, spool, reading, rejected)
            else:
                reading = gather_joined(data, joined, rejected, seed=seed)
                findings = decide_and_write(folder, work, joined, reading, rejected)
        _write_report(folder, work, findings)
    return open_prepared(out)


def _write_report(folder: Path, work: Work, findings: Findings) -> None:
    """Writes the report and the manifest."""
    tokenizer = findings.tokenizer
    report = report_of(findings, work.bounds)
    train = SplitTable(folder / "train.arrow")
    pairs = sample_pairs(train, tokenizer, max(work.previews, _PAIRS))
    write_data_page(folder / REPORT, report, pairs)
    settings = input_settings(findings.data, findings.reading, tokenizer.lossless)
    preview = sample_pairs(train, tokenizer, work.previews)
    write(folder, manifest_of(folder, work.identity, settings, report, preview))
