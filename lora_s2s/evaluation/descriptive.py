"""What answers are like, whatever their quality: neither high nor low values are better."""

from __future__ import annotations

from lora_s2s.errors import UsageError
from lora_s2s.evaluation.measured import RowScores
from lora_s2s.evaluation.texts import Texts, mean
from lora_s2s.evaluation.words import UNSPACED_NAMES, words

_TOKENS = f"tok:unicode-words[characters:{UNSPACED_NAMES}]"
_SIZE = 4


def copy_rate(texts: Texts) -> RowScores:
    """The share of an answer's words that its source has too, a mean over sources: the extractive
    fragment coverage of Grusky et al. (2018). An empty answer copies nothing.

    Raises:
        UsageError: the sources are not at hand.
    """
    if texts.sources is None:
        raise UsageError("copy_rate needs the sources of the answers")
    values = [
        _share_in(words(text), frozenset(words(source)))
        for text, source in zip(texts.predictions, texts.sources, strict=True)
    ]
    return mean(values, texts.references, "of:answer", _TOKENS, "version:1")


def _share_in(tokens: list[str], others: frozenset[str]) -> float:
    return sum(token in others for token in tokens) / len(tokens) if tokens else 0.0


def repetition_rate(texts: Texts) -> RowScores:
    """The share of an answer's 4-grams that it has had before, a mean over sources: seq-rep-4 of
    Welleck et al. (2020), 1 − distinct 4-grams ÷ 4-grams. Shorter answers repeat nothing.
    """
    values = [_repeated(words(text)) for text in texts.predictions]
    return mean(values, texts.references, f"ngrams:{_SIZE}", _TOKENS, "version:1")


def _repeated(tokens: list[str]) -> float:
    ngrams = [tuple(tokens[start : start + _SIZE]) for start in range(len(tokens) - _SIZE + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
