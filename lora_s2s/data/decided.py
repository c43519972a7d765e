"""What is decided over all rows at once, and the splits that follow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_s2s.console import say
from lora_s2s.data.characters import BaseTokenizer, tokenizer_for
from lora_s2s.data.encode import write_splits
from lora_s2s.data.findings import Findings
from lora_s2s.data.limits import KEYS, Bounds, limits_of
from lora_s2s.data.rejections import Rejections
from lora_s2s.data.shards import Identity
from lora_s2s.data.split import decide
from lora_s2s.data.spool import Spooled
from lora_s2s.examples.reading import Reading
from lora_s2s.files import require_space
from lora_s2s.recipe.schema import DataSection


@dataclass(frozen=True)
class Work:
    """What is prepared, and with which settings."""

    data: DataSection
    identity: Identity
    base: BaseTokenizer
    seed: int
    previews: int
    bounds: Bounds


def decide_and_write(
    folder: Path, work: Work, spool: Spooled, reading: Reading, rejected: Rejections
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
