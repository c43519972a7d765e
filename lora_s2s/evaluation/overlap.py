"""Metrics of one answer and its references, averaged over sources: exact match, accuracy, macro-F1,
token F1, ROUGE, edit similarity.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.metadata import version

import numpy as np

from lora_s2s.evaluation.measured import LabelScores, RowScores
from lora_s2s.evaluation.texts import References, Texts, mean, plain_answer, reference_count
from lora_s2s.evaluation.words import UNSPACED_NAMES, beyond_ascii, without_punctuation, words


class _Tokens:
    """A cached tokenizer in rouge-score's interface: metrics and systems share references."""

    def __init__(self, tokenize: Callable[[str], list[str]]) -> None:
        self.tokenize = lru_cache(maxsize=100_000)(tokenize)


@cache
def _rouge_tokens(*, unicode: bool) -> _Tokens:
    """rouge-score's words, stemmed by its rules for English; of other scripts, Unicode words."""
    from rouge_score.tokenizers import DefaultTokenizer  # a second to import: nltk

    stemmed = DefaultTokenizer(use_stemmer=True).tokenize

    def unicode_words(text: str) -> list[str]:
        return [
            stem for word in words(text) for stem in (stemmed(word) if word.isascii() else [word])
        ]

    return _Tokens(unicode_words if unicode else stemmed)


def _needs_unicode(references: References) -> bool:
    return beyond_ascii(text for texts in references for text in texts)


def rouge(kind: str, texts: Texts) -> RowScores:
    """F1 of rouge-score (Lin 2004) against the best reference; words of other scripts than Latin
    are kept where a reference has any.
    """
    unicode = _needs_unicode(texts.references)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=_rouge_tokens(unicode=unicode))
    values = [scorer.score_multi(several, text)[kind].fmeasure for text, several in texts.pairs]
    sentences = ("sentences:newline",) if kind == "rougeLsum" else ()
    tokens = f"tok:unicode-words[characters:{UNSPACED_NAMES}]" if unicode else "tok:a-z0-9"
    facts = ("score:f1", "refs:best", "stemmer:porter", tokens, *sentences)
    return mean(values, texts.references, *facts, f"version:rouge-score-{version('rouge_score')}")


def exact_match(texts: Texts) -> RowScores:
    """The share of answers that equal a reference: case and punctuation count."""
    values = [
        float(plain_answer(text) in set(map(plain_answer, several)))
        for text, several in texts.pairs
    ]
    return mean(values, texts.references, "refs:any", "case:mixed", "norm:strip,nfc", "version:2")


def macro_f1(texts: Texts) -> LabelScores:
    """F1 of each class of the references, averaged over classes, as scikit-learn's ``f1_score``
    with these ``labels``, ``average="macro"`` and ``zero_division=0``; all references of a source
    name its class.
    """
    accepted = [sorted(map(plain_answer, several)) for several in texts.references]
    truth = [several[0] for several in accepted]
    answers = [
        several[0] if (plain := plain_answer(text)) in several else plain
        for text, several in zip(texts.predictions, accepted, strict=True)
    ]
    places = {label: place for place, label in enumerate(dict.fromkeys(truth))}
    truth_N, answers_N = (
        np.array([places.get(label, len(places)) for label in labels])
        for labels in (truth, answers)
    )
    facts = ("classes:references", "average:macro", "refs:any", "case:mixed", "norm:strip,nfc")
    signature = "|".join((reference_count(texts.references), *facts, "version:1"))
    return LabelScores(signature, truth_N, answers_N, classes=len(places))


def token_f1(texts: Texts) -> RowScores:
    """F1 of the words that answer and reference share, as in SQuAD's evaluation script 2.0
    (Rajpurkar et al. 2018), against the best reference.
    """
    unicode = _needs_unicode(texts.references)
    tokens = _unicode_squad_tokens if unicode else squad_tokens
    values = [
        max(_f1(tokens(text), tokens(other)) for other in several) for text, several in texts.pairs
    ]
    norm = f"unicode-words,characters:{UNSPACED_NAMES}" if unicode else "punctuation"
    facts = ("refs:best", "case:lc", f"norm:squad[{norm},articles]", "version:2")
    return mean(values, texts.references, *facts)


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def squad_tokens(text: str) -> list[str]:
    """Words in lower case without ASCII punctuation and English articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _unicode_squad_tokens(text: str) -> list[str]:
    return [word for word in words(without_punctuation(text)) if not _ARTICLES.fullmatch(word)]


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def edit_similarity(texts: Texts) -> RowScores:
    """1 − Levenshtein's distance in characters ÷ the longer text's length, best reference."""
    values = [
        max(_similarity(plain_answer(text), plain_answer(other)) for other in several)
        for text, several in texts.pairs
    ]
    facts = ("refs:best", "unit:characters", "by:longer", "case:mixed", "norm:strip,nfc")
    return mean(values, texts.references, *facts, "version:1")


def _similarity(one: str, other: str) -> float:
    longer = max(len(one), len(other))
    return 1 - edit_distance(one, other) / longer if longer else 1.0


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's distance: insertions, deletions and substitutions of characters.

    By bit vectors (Myers 1999, as in Hyyrö 2003): a column of the table is two numbers whose
    bits say where it goes up or down by one, so a text of n characters takes n steps.
    """
    if not one:
        return len(other)
    masks: dict[str, int] = {}
    for place, char in enumerate(one):
        masks[char] = masks.get(char, 0) | 1 << place
    every, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    up, down, distance = every, 0, len(one)
    for char in other:
        match = masks.get(char, 0) | down
        diagonal = (((match & up) + up) ^ up) | match
        right_up, right_down = down | ~(diagonal | up), up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up = right_up << 1 | 1
        up = (right_down << 1 | ~(diagonal | right_up)) & every
        down = right_up & diagonal & every
    return distance
