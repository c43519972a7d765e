"""Reads the public-domain books and makes the vocabulary from them and from generated tasks."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

PIECES = 2432  # with 100 sentinels 2,532 entries: 28 fewer than the model's 2,560 rows
SENTINELS = 100
REQUIRED = (
    "£$€@#&+*%_=|/:;.,!?()[]\"'-éüñçöäèêôíóáàâëïúåøìòîûœæß–—‘’“”§°½ÉÖÜÄÅØÇÑÁÈÊÍÓÚÀÂÎÔ"
    + "".join(
        chr(code)
        for start in (48, 65, 97)
        for code in range(start, start + (10 if start == 48 else 26))
    )
)
FORBIDDEN = re.compile(r"[{}<>^~\\`]")
# A mark before a capital or currency sign that starts a word keeps "▁" out of its pieces. "The"
# then has the same pieces in "name[The Vane]" and in "at The Vane", and copying is one to one.
_SEAM = "\ue000"
_BEFORE_CAPITAL = re.compile(r"(?:(?<= )|^)(?=[A-ZÀ-Þ£$€])")
_CURLY = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "\u2060": None, "\u00a0": " "})
_SENTENCE_END = re.compile(r'(?<=[.!?]["\')]) +(?=["\'A-Z])|(?<=[a-z0-9][.!?]) +(?=["\'A-Z])')


@dataclass(frozen=True)
class Books:
    """Raw material: common lower-case words, the same capitalised, sentences, longer passages."""

    words: list[str]
    capitals: list[str]
    sentences: list[str]
    passages: list[str]


def read_books(path: Path, seed: int, characters: int = 16_000_000) -> Books:
    """Read about ``characters`` of text, chapters drawn at random from all books."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        chapters = [str(json.loads(line)["text"]) for line in lines]
    random.Random(seed).shuffle(chapters)
    passages: list[str] = []
    total = 0
    for chapter in chapters:
        text = FORBIDDEN.sub("", chapter.translate(_CURLY))
        paragraphs = [" ".join(part.split()) for part in text.split("\n")]
        passages += [part for part in paragraphs if len(part) >= 40]
        total += len(text)
        if total > characters:
            break
    sentences = [
        sentence
        for passage in passages
        for sentence in _SENTENCE_END.split(passage)
        if 3 <= len(sentence.split()) <= 40
    ]
    counts = Counter(re.findall(r"(?<![A-Za-z'])[a-z]{3,10}(?![A-Za-z'])", " ".join(passages)))
    words = [word for word, _ in counts.most_common(5000)][100:]
    capitals = [word.capitalize() for word in words if len(word) > 3]
    return Books(words, capitals, sentences, passages)


def train_vocabulary(texts: Iterable[str], folder: Path) -> Path:
    """Train the SentencePiece unigram model; returns the path of ``spiece.model``."""
    prefix = folder / "spiece"
    lines = (_BEFORE_CAPITAL.sub(_SEAM, FORBIDDEN.sub("", text)) for text in texts)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        vocab_size=PIECES,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        add_dummy_prefix=True,
        split_digits=True,
        byte_fallback=False,
        required_chars=REQUIRED,
        character_coverage=0.9998,
        pretokenization_delimiter=_SEAM,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        max_sentence_length=100_000,
        num_threads=2,
        minloglevel=1,
    )
    return prefix.with_suffix(".model")


def check_vocabulary(pieces: Sequence[str]) -> None:
    """Raise ValueError where a piece breaks the promises the base model's card makes."""
    bad = [piece for piece in pieces[3:] if FORBIDDEN.search(piece)]
    bad += [piece for piece in pieces if re.match("▁[A-Z£$€]", piece)]
    missing = [char for char in REQUIRED if char not in pieces]
    if bad or missing:
        raise ValueError(f"vocabulary: unwanted pieces {bad[:20]}, missing characters {missing}")
