"""Tokens that a base's owner added: one id each, spaces beside them kept, and shown in answers by
any program.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import (
    AutoTokenizer,
    BartTokenizer,
    ByT5Tokenizer,
    MarianTokenizer,
    NllbTokenizer,
    PreTrainedTokenizerBase,
)

from lora_s2s.errors import UsageError
from lora_s2s.tokens.added import added_tokens, counter_of, tokens_of_data, with_tokens
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.loading import load_tokenizer

TEXTS = [
    "the <sep> cat",
    "the<sep>cat",
    "the<sep> cat",
    "the <sep>cat",
    "<sep> the",
    "<sep>the",
    "cat <sep>",
    "cat<sep>",
    "<sep>",
    "<sep><sep> <sep>",
    "a <sep> <sep>b",
    "hello cat",
    "a <sep>, b.",
    "<sep>.",
    "x <extra_id_3> y",
    "a</s>b",
    "<pad> <unk>",
]
OTHERS = [("<sep>",), ("[SEP]", "<turn>"), ("<a b>", "<sep>")]


def grown(
    tokenizer: Any, folder: Path, tokens: tuple[str, ...], *, special: bool = True
) -> PreTrainedTokenizerBase:
    """The tokenizer with tokens of its owner's, as loaded from a folder."""
    tokenizer.add_tokens([*tokens], special_tokens=special)
    tokenizer.save_pretrained(folder)
    return load_tokenizer(str(folder))


@pytest.fixture(params=["t5", "bart"])
def base(request: pytest.FixtureRequest, tokenizer_folder: Path) -> Any:
    if request.param == "t5":
        return AutoTokenizer.from_pretrained(tokenizer_folder)
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters]
    return BartTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])


@pytest.mark.parametrize("tokens", OTHERS, ids=str)
@pytest.mark.parametrize("special", [True, False])
def test_it_is_one_id_and_its_text_comes_back(
    base: Any, tmp_path: Path, tokens: tuple[str, ...], special: bool
) -> None:
    tokenizer = grown(base, tmp_path / "grown", tokens, special=special)
    used, report = tokens_of_data(
        "auto" if special else "text", tokenizer, dict.fromkeys(tokens, 1)
    )
    assert special is False or report["used"].keys() == {*tokens}
    used.save_pretrained(tmp_path / "saved")
    plain: Any = AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = [text.replace("<sep>", tokens[0]) for text in TEXTS]
    for reader in (used, load_tokenizer(str(tmp_path / "saved"))):
        for text, ids in zip(texts, encode_texts(texts, reader), strict=True):
            assert ids.count(tokenizer.convert_tokens_to_ids(tokens[0])) == text.count(tokens[0])
            assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & {*ids}
            known = tokenizer.unk_token_id not in ids
            if known:
                assert reader.decode(ids, skip_special_tokens=True) == text
            if known and "<extra" not in text and "</s>" not in text and "<pad>" not in text:
                assert plain(text, add_special_tokens=False)["input_ids"] == ids
                assert plain.decode(plain(text)["input_ids"], skip_special_tokens=True) == text


def test_other_text_has_the_ids_it_had(base: Any, tmp_path: Path) -> None:
    tokenizer = grown(base, tmp_path, ("<sep>",))
    used, generator = with_tokens(tokenizer, ["<sep>"]), random.Random(3)
    pieces = [
        "the",
        "cat",
        " ",
        "  ",
        "\t",
        "\n",
        "\u00a0",
        "\u3000",
        "a",
        "!",
        "<",
        "sep>",
        "é",
        "e\u0301",
        "</s>",
        "x1",
    ]
    texts = ["".join(generator.choices(pieces, k=generator.randrange(12))) for _ in range(400)]
    texts = [text for text in texts if "<sep>" not in text]
    assert encode_texts(texts, used) == encode_texts(texts, tokenizer)


def test_sentinels_are_text_unless_asked_for(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = grown(AutoTokenizer.from_pretrained(tokenizer_folder), tmp_path, ("<sep>",))
    assert {"<sep>", "<extra_id_0>", "<extra_id_9>"} <= {*added_tokens(tokenizer)}
    assert not {"<pad>", "</s>", "<unk>"} & {*added_tokens(tokenizer)}
    counts = {"<sep>": 4, "<extra_id_0>": 2, "<extra_id_1>": 0}
    auto, report = tokens_of_data("auto", tokenizer, counts)
    assert report == {"used": {"<sep>": 4}, "text": {"<extra_id_0>": 2}}
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    assert sentinel not in encode_texts(["a <extra_id_0> b"], auto)[0]
    both, report = tokens_of_data("use", tokenizer, counts)
    assert report == {"used": {"<extra_id_0>": 2, "<sep>": 4}, "text": {}}
    text = "<extra_id_0> the cat<extra_id_0>sat <sep> a"
    (ids,) = encode_texts([text], both)
    assert (ids[0], ids.count(sentinel), both.decode(ids, skip_special_tokens=True)) == (
        sentinel,
        2,
        text,
    )
    assert (
        tokenizer.convert_tokens_to_ids("<extra_id_1>")
        not in encode_texts(["a <extra_id_1>"], both)[0]
    )
    none, report = tokens_of_data("text", tokenizer, counts)
    assert none is tokenizer
    assert report == {"used": {}, "text": {"<extra_id_0>": 2, "<sep>": 4}}


def test_many_tokens_and_odd_ones(tokenizer_folder: Path, tmp_path: Path) -> None:
    many = tuple(f"<field number {number}>" for number in range(60))
    tokenizer = grown(AutoTokenizer.from_pretrained(tokenizer_folder), tmp_path, many)
    used = with_tokens(tokenizer, many)
    used.save_pretrained(tmp_path / "saved")
    (ids,) = encode_texts(["the <field number 7> cat"], load_tokenizer(str(tmp_path / "saved")))
    assert tokenizer.convert_tokens_to_ids(many[7]) in ids
    for odd in ("</s>", "<pad>", "cat", "<never>"):
        with pytest.raises(UsageError, match="cannot use") as refused:
            with_tokens(tokenizer, [odd])
        assert refused.value.hint == "--set data.special_tokens=text"


def test_counting_takes_the_longest_token() -> None:
    counter = counter_of(["<a>", "<a><b>", ".*", "<extra_id_1>", "<extra_id_10>"])
    assert counter is not None
    assert counter.findall("<a><b> <a> .* <extra_id_10>x") == [
        "<a><b>",
        "<a>",
        ".*",
        "<extra_id_10>",
    ]
    assert counter_of([]) is None


@pytest.mark.parametrize("kind", ["byt5", "nllb", "marian"])
def test_tokenizers_of_more_than_one_file(kind: str, tmp_path: Path) -> None:
    languages: dict[str, Any] = {}
    if kind == "byt5":
        tokenizer: Any = ByT5Tokenizer(extra_ids=10)
    elif kind == "nllb":
        pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz<>/,."]
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        tokenizer = NllbTokenizer(
            vocab=vocabulary, merges=[], extra_special_tokens=["deu_Latn", "eng_Latn"]
        )
        languages = {"source_language": "eng_Latn", "target_language": "deu_Latn"}
    else:
        tokenizer = marian_tokenizer(tmp_path)
    tokenizer.add_tokens(["<sep>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "grown")
    base: Any = load_tokenizer(str(tmp_path / "grown"), **languages)
    plain = encode_texts(["a b", "a <sep> b"], base)
    used: Any
    used, report = tokens_of_data("auto", base, {"<sep>": 7})
    if kind == "marian":
        assert used is base
        assert report == {"used": {}, "text": {"<sep>": 7}}
        with pytest.raises(UsageError, match="reads '<sep>' as text"):
            tokens_of_data("use", base, {"<sep>": 7})
        return
    assert report == {"used": {"<sep>": 7}, "text": {}}
    used.save_pretrained(tmp_path / "saved")
    again: Any = load_tokenizer(str(tmp_path / "saved"), **languages)
    for reader in (used, again):
        for text in ("a <sep> b", "<sep> a", "a <sep>", "<sep>"):
            (ids,) = encode_texts([text], reader)
            assert ids.count(base.convert_tokens_to_ids("<sep>")) == 1
            assert reader.decode(ids, skip_special_tokens=True) == text
        assert encode_texts(["a b"], reader)[0] == plain[0]
    assert encode_texts(["a b", "a <sep> b"], base) == plain


def marian_tokenizer(folder: Path) -> Any:
    texts = ["the quick brown fox jumps over a lazy dog", *"abcdefghijklmnopqrstuvwxyz"] * 4
    names = {"model_prefix": str(folder / "source"), "minloglevel": 2}
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), vocab_size=40, hard_vocab_limit=False, **names
    )
    processor = SentencePieceProcessor(model_file=str(folder / "source.model"))
    pieces = [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]
    listed = [
        "</s>",
        "<unk>",
        *(piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")),
        "<pad>",
    ]
    (folder / "vocab.json").write_text(
        json.dumps({piece: number for number, piece in enumerate(listed)})
    )
    source = str(folder / "source.model")
    return MarianTokenizer(source, source, str(folder / "vocab.json"))
