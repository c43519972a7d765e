"""Encoding word by word: the ids of the whole pipeline, whatever the text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lora_s2s.tokens import encoder as encoding
from lora_s2s.tokens.encoder import FastEncoder, TextEncoder, encoder_of
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.lossless import lossless_tokenizer, lossless_tokens

ROWS = 2560
# More than have a row of their own: the last ones are carried by the mark and a sign.
CARRIED = {chr(code): 50 for code in range(0x4E00, 0x4E20)} | {
    "ж": 99,
    "²": 98,
    "\u0301": 97,
    "▁": 96,
    "\xa0": 95,
}
KINDS = ("plain", "lossless", "letters")
Encoders = dict[str, tuple[FastEncoder, FastEncoder]]

FRAGMENTS = st.sampled_from(
    [
        "the",
        "name",
        "x" * 40,
        "</s>",
        "<pad>",
        "<extra_id_5>",
        "<unk>",
        "</",
        "s>",
        "<",
        "{",
        "}",
        "~",
        "`",
        "\\",
        " ",
        "  ",
        "\n",
        "\t",
        "\r\n",
        "\0",
        "\u2003",
        "\xa0",
        "\u3000",
        "\u200b",
        "\u2028",
        "\ufeff",
        "\xad",
        "\ufdd0",
        " \u0301",
        " \u0345x",
        "e\u0301",
        "´",
        "¨a",
        "ﬁ",
        "½",
        "…",
        "№",
        "\u0f73",
        "ﷺ",
        "▁",
        "ж",
        "世界",
        "ไทย",
        "😀",
        "👍\U0001f3fd",
        "👩\u200d👩\u200d👧",
        "🏳\ufe0f\u200d🌈",
        "\U0001f1e9\U0001f1ea",
    ]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=6), max_size=10).map("".join)


@pytest.fixture(scope="module")
def encoders(demo_base: Path, tokenizer: PreTrainedTokenizerBase) -> Encoders:
    """The encoder, and one that reads texts whole."""
    plain = load_tokenizer(str(demo_base))
    lossless = lossless_tokenizer(plain, lossless_tokens(plain, ROWS, CARRIED))
    found = {}
    for kind, made in zip(KINDS, (plain, lossless, tokenizer), strict=True):
        by_word = fast(encoder_of(made))
        whole = again(by_word)
        assert by_word._by_word
        whole._by_word = False
        found[kind] = by_word, whole
    return found


def fast(encoder: TextEncoder) -> FastEncoder:
    assert isinstance(encoder, FastEncoder)
    return encoder


def again(encoder: FastEncoder) -> FastEncoder:
    """One that remembers nothing yet."""
    return FastEncoder(encoder._pipeline, encoder._spelled)


@settings(max_examples=500, deadline=None)
@given(texts=st.lists(TEXTS, max_size=3))
@example(texts=["the……"])  # six dots: the scores' last digit decides how they are cut
def test_words_give_the_ids_of_the_whole_text(texts: list[str], encoders: Encoders) -> None:
    for kind in KINDS:
        by_word, whole = encoders[kind]
        assert by_word(texts) == whole(texts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_character_alone_and_beside_spaces(kind: str, encoders: Encoders) -> None:
    by_word, whole = encoders[kind]
    letters = [chr(code) for code in range(0x3400) if not 0xD800 <= code < 0xE000]
    texts = [
        text
        for letter in letters
        for text in (letter, f"{letter} a {letter} b {letter}c d{letter} e")
    ]
    assert by_word(texts) == whole(texts)


def test_words_that_are_forgotten_are_read_again(
    encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_word, whole = encoders["plain"]
    monkeypatch.setattr(encoding, "_MOST_WORDS", 3)
    encoder = again(by_word)
    for number in range(40):
        # Each text has words of the last one, and one that is new.
        texts = [" ".join(f"w{number + place}" for place in range(4)), f"w{number} the"]
        assert encoder(texts) == whole(texts)
        assert len(encoder._words) <= 3 + 5
