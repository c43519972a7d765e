"""The report of ``prepare``: rows read, kept, cut and dropped, with warnings and advice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lora_s2s.data.characters import BaseTokenizer, Characters, DataTokenizer, characters_report
from lora_s2s.data.columns import ambiguity, column_warnings, columns_line
from lora_s2s.data.limits import KEYS, Bounds, Chosen
from lora_s2s.data.prepared import SplitTable
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.report import Report, advice, limit_warnings
from lora_s2s.data.split import DUPLICATE, REASONS, SPLITS, Decisions
from lora_s2s.data.split_files import splits_named
from lora_s2s.data.survey import SIDES, Tally, tokens_report
from lora_s2s.examples.reading import Reading
from lora_s2s.recipe.schema import DataSection
from lora_s2s.tokens.lossless import rows_taken
from lora_s2s.tokens.tokenise import Ids

_PIECES = 300


@dataclass(frozen=True)
class Findings:
    """The results of preparing.

    Attributes:
        data: with numbers for the limits.
        sizes: rows by split.
        limits: both length limits by key.
    """

    data: DataSection
    reading: Reading
    decisions: Decisions
    characters: Characters
    base: BaseTokenizer
    tokenizer: DataTokenizer
    limits: Mapping[str, Chosen]
    sizes: Counter[str]
    tally: Tally
    rejected: Rejections


def report_of(findings: Findings, bounds: Bounds) -> dict[str, object]:
    """The object of ``prepare --json``."""
    data, sizes, limits = findings.data, findings.sizes, findings.limits
    report: dict[str, Any] = {
        "rows": findings.rejected.rows(findings.tally.kept),
        "splits": {split: sizes[split] for split in SPLITS if sizes[split]},
        **tokens_report(findings.tally),
        "duplicates": findings.rejected.reasons[REASONS[DUPLICATE]],
        "leaked": findings.decisions.leaked,
        "limits": {key: asdict(limit) for key, limit in limits.items()},
        "special_tokens": findings.tokenizer.added,
        **characters_report(findings.tokenizer, findings.characters),
        "files": {
            split: [named] if isinstance(named := data.named(split), str) else named
            for split in splits_named(data)
        },
    }
    # Copies that differ in unused columns are kept, and reported as such.
    report["near_duplicates"] = max(0, report["near_duplicates"] - findings.decisions.repeated)
    report["suggested_bytes"] = _suggested_bytes(report, bounds)
    return {**report, **_sentences(findings, report)}


def _suggested_bytes(report: Report, bounds: Bounds) -> dict[str, int]:
    """Memory for training on one row of a suggested limit, by side, if this machine has less."""
    needed = {}
    for side, key in KEYS.items():
        tokens = {other: limit["tokens"] for other, limit in report["limits"].items()}
        tokens[key] = report["suggested"][key]
        source, target = (tokens[each] for each in KEYS.values())
        if bounds.row_bytes is not None and not bounds.fits(source, target):
            needed[side] = bounds.row_bytes(source, target)
    return needed


def _sentences(findings: Findings, report: Report) -> dict[str, object]:
    """The report's texts: columns, warnings, advice."""
    reading, decisions = findings.reading, findings.decisions
    notes, warnings = ambiguity(reading, decisions, report["splits"].get("train", 0))
    hints = advice(report, spare=findings.base.can_be_lossless)
    return {
        "columns": reading.to_json(),
        "columns_line": columns_line(reading),
        "several_targets": decisions.ambiguous,
        "repeated_pairs": decisions.repeated,
        "warnings": [*column_warnings(reading), *warnings, *limit_warnings(report)],
        "advice": [*reading.notes, *notes, *hints],
    }


def sample_pairs(
    table: SplitTable, data_tokenizer: DataTokenizer, count: int
) -> list[dict[str, Any]]:
    """Pairs from all over the split: text and tokens of both sides, after truncation."""
    rows = [
        table.features(index)
        for index in range(0, len(table), max(1, len(table) // max(1, count)))[:count]
    ]
    tokenizer, tokens = data_tokenizer.tokenizer, data_tokenizer.lossless
    names = dict(enumerate(tokens, start=len(tokenizer) - rows_taken(tokens)))
    return [
        {
            side: _side(ids, tokenizer, names)
            for side, ids in zip(SIDES, (row.input_ids, row.labels), strict=True)
        }
        for row in rows
    ]


def _side(ids: Ids, tokenizer: Any, names: Mapping[int, str]) -> dict[str, Any]:
    first = [int(token) for token in ids[:_PIECES]]
    pieces = zip(first, tokenizer.convert_ids_to_tokens(first), strict=True)
    return {
        "text": str(tokenizer.decode(ids)),
        "pieces": [names.get(token, piece) or "(escape)" for token, piece in pieces],
        "tokens": len(ids),
    }
