"""Data files to a prepared folder: read, check, clean, split, tokenise, report."""

from __future__ import annotations

from pathlib import Path

from lora_s2s.data.characters import BaseTokenizer, tokenizer_for
from lora_s2s.data.encode import rarely_collected, write_splits
from lora_s2s.data.findings import Findings, report_of
from lora_s2s.data.gather import gather, with_split_files
from lora_s2s.data.limits import KEYS, UNBOUNDED, Bounds, limits_of
from lora_s2s.data.manifest import identity_of, input_settings, manifest_of, reusable
from lora_s2s.data.prepared import (
    REJECTED,
    REPORT,
    PreparedDataset,
    SplitTable,
    open_prepared,
)
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.report import sample_pairs
from lora_s2s.data.split import Decisions, decide
from lora_s2s.data.spool import Spool
from lora_s2s.files import require_space
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

    Raises:
        DataError: data is missing or unreadable, more than ``max_rejected`` of it is unusable or
            has too long targets, or nothing is left.
        UsageError: an unknown template or language, no unused embedding rows for ``lossless_text``,
            or ``out`` is something else.
        SetupError: the tokenizer cannot be loaded.
    """
    data, out = with_split_files(data), Path(out)
    identity = identity_of(data, model, seed=seed, previews=previews, strict=strict)
    if (existing := reusable(out, identity)) is not None:
        return existing
    base = BaseTokenizer.load(data, model)
    with whole_folder(out, replace=True) as folder, rarely_collected():
        with Rejections(folder / REJECTED) as rejected:
            with Spool(folder / _SPOOL, seed, base.added_tokens) as spool:
                reading = gather(data, spool, rejected, seed=seed, strict=strict)
            rejected.check(spool.rows, data.max_rejected)
            decisions = _decided(spool, data.validation_fraction)
            data_tokenizer = tokenizer_for(data, base, spool.characters)
            limits = limits_of(data, spool.path, decisions, data_tokenizer.tokenizer, bounds, seed)
            data = data.model_copy(update={key: limit.tokens for key, limit in limits.items()})
            sizes, tally = write_splits(spool, decisions, data_tokenizer.tokenizer, data, rejected)
            rejected.check_targets(limits[KEYS["target"]], data.max_rejected, tally)
        findings = Findings(
            reading,
            decisions,
            spool.characters,
            base,
            data_tokenizer,
            limits,
            sizes,
            tally,
            rejected,
        )
        report = report_of(data, findings, bounds)
        pairs = sample_pairs(
            SplitTable(folder / "train.arrow"), data_tokenizer, max(previews, _PAIRS)
        )
        write_data_page(folder / REPORT, report, pairs)
        settings = input_settings(data, reading, data_tokenizer.lossless)
        preview = sample_pairs(SplitTable(folder / "train.arrow"), data_tokenizer, previews)
        write(folder, manifest_of(folder, identity, settings, report, preview))
    return open_prepared(out)


def _decided(spool: Spool, fraction: float) -> Decisions:
    decisions = decide(spool.keys(), fraction)
    # Prepared rows have the spool's texts and their ids.
    require_space(spool.path.parent.parent, int(spool.path.stat().st_size * decisions.kept))
    return decisions
