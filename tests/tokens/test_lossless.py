"""Lossless text: what was encoded decodes to the very same text, also after saving and loading
without this package.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lora_s2s.errors import UsageError
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.lossless import (
    ALWAYS,
    ESCAPE,
    beyond_reach,
    lossless_tokenizer,
    lossless_tokens,
    rows_taken,
    unused_rows,
)
from lora_s2s.tokens.special_tokens import special_token_templates

ROWS, UNKNOWN, END = 2560, 2, 1
many = settings(max_examples=500, deadline=None)
# Characters a dataset might have: unknown to the vocabulary, changed by it, a combining mark, the
# word mark itself.
COUNTS = {
    "é": 9,
    ">": 90,
    "²": 5,
    "\u0301": 8,
    "\xa0": 4,
    "…": 7,
    "▁": 3,
    "ж": 6,
    "😀": 2,
    "\r": 2,
    "{": 50,
    "ф": 1,
    "e": 99,
}


@pytest.fixture(scope="module")
def original(demo_base: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(demo_base))


@pytest.fixture(scope="module")
def lossless(original: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return lossless_tokenizer(original, lossless_tokens(original, ROWS, COUNTS))


@pytest.fixture(scope="module")
def plain(original: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return lossless_tokenizer(original, ALWAYS)


@pytest.fixture(scope="module")
def loaded(lossless: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("lossless")
    lossless.save_pretrained(folder)
    (folder / "config.json").write_text(
        '{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}'
    )
    assert not (folder / "spiece.model").exists()
    return AutoTokenizer.from_pretrained(folder)


def words(*fragments: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(fragments), max_size=12).map("".join)


ASCII = st.text(
    st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("\n\t "), max_size=60
)
CODE = words(
    "def f(x):",
    "\n    ",
    "\n        ",
    "\n  ",
    "\n",
    "\n\n",
    "\t",
    "if (a < b) {",
    "}",
    " ",
    "  ",
    "x = y[1]",
    "// \\n ",
    "`a`",
    "~",
    "^",
    "</s>",
    "<pad>",
    "<extra_id_5>",
    "            ",
    "\r\n",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('abc<>\\^{}~`"\n\t é', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc{} ", max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
DATA = st.builds(
    lambda value, indent: json.dumps(value, indent=indent),
    JSON,
    st.sampled_from([None, 1, 2, 4, "\t"]),
)
SQL = words(
    "SELECT ",
    "a.b",
    ", ",
    "\n  FROM ",
    "t",
    "\n\tWHERE ",
    "x <> 3",
    " AND ",
    "y <= '{}'",
    ";",
    "\n",
    "--  ",
    " `c` ",
)
MARKDOWN = words(
    "# a",
    "\n",
    "\n\n",
    "- b",
    "  - c",
    "```sh",
    "`d`",
    "| e  | f |",
    "<br>",
    "~~g~~",
    "1. ",
    " ",
    "  \n",
    "\\*",
)


@many
@given(text=ASCII | CODE | DATA | SQL | MARKDOWN)
def test_a_text_comes_back_as_written(text: str, loaded: Any) -> None:
    ids = loaded(text)["input_ids"]
    assert ids[-1] == END
    assert loaded.decode(ids, skip_special_tokens=True) == text


@many
@given(text=st.text(max_size=40))
def test_so_does_any_text_of_characters_within_reach(text: str, loaded: Any) -> None:
    lost = beyond_reach(loaded, text)
    text = "".join("x" if character in lost else character for character in text)
    (ids,) = encode_texts([text], loaded)
    assert UNKNOWN not in ids
    assert loaded.decode(ids) == text


@many
@given(
    text=st.text(max_size=30) | CODE,
    mark=st.sampled_from(["</s>", "<pad>", "<extra_id_5>", "<unk>", ""]),
)
def test_no_text_makes_a_control_token(
    text: str, mark: str, loaded: Any, original: PreTrainedTokenizerBase
) -> None:
    control = {*original.all_special_ids} - {UNKNOWN}
    assert len(control) == 102
    for ids in (
        loaded(text + mark + text)["input_ids"][:-1],
        encode_texts([mark + text], loaded)[0],
    ):
        assert control.isdisjoint(ids)
        assert max(ids, default=0) < ROWS


@many
@given(
    text=st.lists(
        st.text("abcXYZ09éèß.,:;!?'\"()-$%&*|#½ß²-", min_size=1, max_size=9), max_size=9
    ).map(" ".join)
)
def test_ordinary_text_keeps_its_ids(
    text: str, plain: Any, original: PreTrainedTokenizerBase
) -> None:
    assert plain(text)["input_ids"] == original(text)["input_ids"]
    assert encode_texts([text], plain) == encode_texts([text], original)


def test_saving_keeps_every_id_and_setting(
    loaded: Any, lossless: Any, original: PreTrainedTokenizerBase
) -> None:
    texts = [
        "",
        " ",
        "  ",
        "\n",
        "\n\n",
        " \n ",
        "\n x",
        "\n    x",
        "a  b",
        "\t\n\t",
        "x" + " " * 9,
        "<s></s>",
        "²",
        "e\u0301",
    ]
    assert loaded(texts)["input_ids"] == lossless(texts)["input_ids"]
    assert lossless.batch_decode(encode_texts(texts, lossless)) == texts
    for name in (
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "model_max_length",
        "model_input_names",
        "padding_side",
    ):
        assert getattr(loaded, name) == getattr(original, name)
    assert special_token_templates(loaded) == special_token_templates(original)
    shown = [
        original.pad_token_id,
        *loaded("a b")["input_ids"],
        original.convert_tokens_to_ids("<extra_id_3>"),
    ]
    assert loaded.decode(shown, skip_special_tokens=True) == "a b"


def test_the_ids_follow_the_list(original: PreTrainedTokenizerBase) -> None:
    carried = [*reversed(ALWAYS), "é", ","]
    assert "," in original.get_vocab()
    made = lossless_tokenizer(original, carried)
    assert len(made) == len(made.get_vocab()) == len(original) + len(carried)
    for index, text in enumerate(carried):
        ids = encode_texts([f"the{text} the"], made)[0]
        assert [token for token in ids if token >= len(original)] == [len(original) + index]


def test_a_word_after_a_break_is_the_usual_piece(lossless: PreTrainedTokenizerBase) -> None:
    (word,) = encode_texts(["the"], lossless)[0]
    for text in ("\nthe", "\tthe", "\n    the", "}\n\n  the", "{   the"):
        assert encode_texts([text], lossless)[0][-1] == word
    (bare,) = encode_texts(
        ["\n}"], lossless
    )  # No piece begins with a space and a brace, so none is spent on one.
    assert len(bare) == 3


def test_spare_rows_are_those_of_t5_alone(
    original: Any, lossless: Any, tokenizer: Any, demo_base: Path
) -> None:
    assert unused_rows(original, ROWS) == 28
    assert unused_rows(original, len(original)) == unused_rows(original, 100) == 0
    assert unused_rows(original, 10 * ROWS) == 32
    assert unused_rows(lossless, 10 * ROWS) == 0
    assert unused_rows(tokenizer, 128) == 128 - len(tokenizer)
    with_more = load_tokenizer(str(demo_base))
    with_more.add_tokens(["<mine>"])
    assert unused_rows(with_more, ROWS) == 0


def test_other_kinds_of_tokenizers_have_none(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    byt5 = ByT5Tokenizer()
    assert unused_rows(byt5, 384) == 0
    assert beyond_reach(byt5, "\n\t<{é😀") == {}
    with pytest.raises(UsageError, match="T5's shape"):
        lossless_tokenizer(byt5, ALWAYS)


def test_what_is_carried(original: PreTrainedTokenizerBase) -> None:
    carried = lossless_tokens(original, ROWS, COUNTS)
    assert carried[: len(ALWAYS)] == list(ALWAYS)
    assert carried[len(ALWAYS) :] == [">", "\u0301", "…", "ж", "²", "\xa0", "▁", "\r", "😀", "ф"]
    assert rows_taken(carried) == len(carried)
    assert lossless_tokens(original, ROWS, {"\ufdd0": 9}) == list(ALWAYS)
    with pytest.raises(UsageError, match="needs 12 unused embedding rows"):
        lossless_tokens(original, len(original) + 11, {})


def test_what_has_no_row_of_its_own_is_carried_by_the_mark(
    original: PreTrainedTokenizerBase,
) -> None:
    plenty = [chr(code) for code in range(0x4E00, 0x4E28)]
    carried = lossless_tokens(
        original, ROWS, {char: 99 - place for place, char in enumerate(plenty)}
    )
    assert [text for text in carried if text not in (*ALWAYS, ESCAPE)] == plenty[
        : len(carried) - len(ALWAYS) - 1
    ]
    assert rows_taken(carried) == 28
    assert len(carried) > 28 + 20
    made = lossless_tokenizer(original, carried)
    assert len(made) == ROWS
    for text in (
        "".join(carried),
        " ".join(carried),
        "a".join(carried),
        "1\u0301".join(carried),
        carried[-1],
    ):
        ids = encode_texts([text], made)[0]
        assert made.decode(ids) == text.replace("\u0301", "<unk>")
        assert max(ids) < ROWS
    assert beyond_reach(made, plenty) == dict.fromkeys(
        plenty[len(carried) - len(ALWAYS) - 1 :], "unknown"
    )
    assert made.decode([len(original) + 27, 5]) == made.decode([5])


# Forty: as many as there is room for have a row of their own, the others the mark and a sign, or
# none is lost.
RARE = [
    *(chr(code) for code in range(0x4E00, 0x4E10)),
    *"жфя>ñő¢€√∂→★😀🎉",
    "\u0301",
    "\xa0",
    "²",
    "…",
    "½",
    "№",
    "\u200d",
    "▁",
    "ﬁ",
    "™",
]
SIGNS = "0123456789.,:;!?'\"-()/&%$#@*+[]_|"

OFTEN = st.sampled_from([*ALWAYS, " ", "the ", "a", "e", "é", "</s>", "<unk>"])
BESIDE = st.sampled_from(RARE) | st.sampled_from(SIGNS) | OFTEN


@pytest.fixture(scope="module")
def marked(original: PreTrainedTokenizerBase) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """A tokenizer that carries some by the mark, and what it carries."""
    carried = lossless_tokens(original, ROWS, {char: 99 - place for place, char in enumerate(RARE)})
    return lossless_tokenizer(original, carried), carried


@pytest.fixture(scope="module")
def marked_loaded(
    marked: tuple[PreTrainedTokenizerBase, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    folder = tmp_path_factory.mktemp("marked")
    marked[0].save_pretrained(folder)
    (folder / "config.json").write_text(
        '{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}'
    )
    return AutoTokenizer.from_pretrained(folder)


def test_of_forty_rare_characters_each_has_a_row_or_a_sign(marked: tuple[Any, list[str]]) -> None:
    tokenizer, carried = marked
    assert len(RARE) == 40
    rows = rows_taken(carried)
    assert rows == 28
    assert carried[rows - 1] == ESCAPE
    assert len(carried) - rows > 15
    asked = set(RARE) - beyond_reach(tokenizer, RARE).keys()
    assert asked >= set(carried) & set(RARE)
    assert len(asked) == 40  # what has neither was within reach from the start


@many
@given(text=st.lists(BESIDE, max_size=14).map("".join))
def test_a_text_of_rare_characters_and_signs_comes_back(
    text: str, marked: tuple[Any, list[str]], marked_loaded: Any
) -> None:
    (ids,) = encode_texts([text], marked[0])
    assert UNKNOWN not in ids
    assert max(ids, default=0) < ROWS
    assert marked_loaded.decode(ids) == text
    assert marked_loaded(text)["input_ids"] == [*ids, END]
    assert encode_texts([text], marked_loaded) == [ids]


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, ROWS - 1), max_size=12))
def test_no_answer_of_the_model_shows_a_stand_in_or_fails(
    ids: list[int], marked_loaded: Any
) -> None:
    # The mark may come without a sign, or twice.
    shown = marked_loaded.decode(ids, skip_special_tokens=True)
    assert not any("\ufdd0" <= char <= "\ufdef" for char in shown)


@pytest.mark.parametrize(
    "carried",
    [["ab"], [" "], ["", ""], ["\ufdd3"], ["é", "é"], [chr(0x4E00 + n) for n in range(33)]],
)
def test_what_cannot_be_carried_is_refused(
    carried: list[str], original: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UsageError):
        lossless_tokenizer(original, carried)


def test_what_happens_to_a_character_is_said(original: Any, lossless: Any) -> None:
    asked = ["a", "<", "\n", " ", "  ", "²", "…", "\x01", "ж", "\ufdd0"]
    assert beyond_reach(original, asked) == {
        "<": "unknown",
        "\n": "becomes ' '",
        "  ": "becomes ' '",
        "²": "becomes '2'",
        "…": "becomes '...'",
        "\x01": "vanishes",
        "ж": "unknown",
        "\ufdd0": "unknown",
    }
    assert beyond_reach(lossless, asked) == {"\x01": "vanishes", "\ufdd0": "becomes ' '"}
    assert beyond_reach(lossless, []) == {}


def test_every_letter_within_reach_can_stand_beside_any_other(
    lossless: PreTrainedTokenizerBase,
) -> None:
    letters = [chr(code) for code in range(0x2100) if unicodedata.category(chr(code)) != "Cs"]
    lost = beyond_reach(lossless, letters)
    within = [letter for letter in letters if letter not in lost]
    texts = [first + second for first in within for second in within]
    assert lossless.batch_decode(encode_texts(texts, lossless)) == texts


def test_a_folder_that_carries_many_signs_opens_again(
    original: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    # A rule for each: what they make of a text adds up, and does not multiply.
    signs = {chr(place): 5 for place in range(ord("а"), ord("я") + 1)} | dict.fromkeys(
        "{}<>\\^~`", 9
    )
    carried = lossless_tokens(original, ROWS, signs)
    assert len(carried) > 20
    lossless_tokenizer(original, carried).save_pretrained(tmp_path)
    text = "find . -name \"*.txt\" | xargs -I{} sh -c 'echo ~ > {}' жук\n"
    opened = load_tokenizer(str(tmp_path))
    assert opened.decode(opened(text).input_ids[:-1], skip_special_tokens=False) == text
