"""What TER costs. sacrebleu computes it in Python and tries up to 1,000 moves of words for each
reference; every try compares the two texts word by word.
"""

from __future__ import annotations

from lora_s2s.errors import UsageError
from lora_s2s.evaluation.texts import References

# Such a reference takes half a minute and 0.2 GB; both grow with the square of its length.
_MOST_WORDS = 1_000
# Seconds for a reference of n words and another text as long: at most this × n³, and this × n.
_CUBIC, _LINEAR = 1.2e-6, 0.02
_WORTH_A_NOTE = 60.0


def time_note(references: References, *, systems: int) -> str | None:
    """Returns how long TER may take where that is more than a minute.

    Args:
        references: all references of each source to be scored.
        systems: how many models answer them.

    Raises:
        UsageError: a reference is too long.
    """
    lengths = [len(text.split()) for texts in references for text in texts]
    longest = max(lengths, default=0)
    if longest > _MOST_WORDS:
        raise UsageError(
            f"ter compares sentences: a reference has {longest:,} words, expected at most "
            f"{_MOST_WORDS:,}",
            hint="choose another metric: --set evaluation.metrics=chrf",
        )
    seconds = systems * sum(min(_CUBIC * words**3, _LINEAR * words) for words in lengths)
    if seconds <= _WORTH_A_NOTE:
        return None
    return (
        f"ter may take up to about {seconds / 60:,.0f} minutes: it is meant for sentences, and "
        f"references have up to {longest:,} words; evaluation.limit scores a sample"
    )
