"""Token ids: what is cut, where ``</s>`` stands, and that no text becomes a control token."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lora_s2s.errors import DataError, Error
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.tokens.special_tokens import (
    SpecialTokenTemplate,
    SpecialTokenTemplates,
    special_token_templates,
)
from lora_s2s.tokens.tokenise import Features, LengthRules, encode_source, features_of

PAD, END, UNKNOWN = 0, 1, 2
END_ONLY = SpecialTokenTemplate((), (END,))
T5 = SpecialTokenTemplates(END_ONLY, END_ONLY)
RULES = LengthRules(5, 5, truncate_source="right", long_targets="drop")


@pytest.mark.parametrize(
    "text", ["</s>", "a</s>b", "the </s> cat <pad> sat <extra_id_5>", "<extra_id_0></s><pad>"]
)
def test_control_tokens_written_in_a_text_stay_text(
    text: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    control = set(tokenizer.all_special_ids) - {UNKNOWN}
    assert control & set(plain)  # so the tokenizer alone would let them in
    (ids,) = encode_texts([text], tokenizer)
    assert not control & set(ids)
    shown = tokenizer.decode(ids)
    for word in ("s>", "pad>", "extra_id_5>", "extra_id_0>"):
        assert (word in shown) == (word in text)
    assert encode_source(text, tokenizer, max_source_tokens=99, truncate_source="right") == [
        *ids,
        END,
    ]


@given(st.text(max_size=40))
def test_no_text_becomes_a_control_token(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    for ids in encode_texts([text, f"</s>{text}<pad>"], tokenizer):
        assert not (set(tokenizer.all_special_ids) - {UNKNOWN}) & set(ids)


@given(
    st.lists(
        st.text(max_size=30) | st.sampled_from(["</s>", "a <pad>  b\n", "\ufdd0", " ", "x" * 900]),
        max_size=4,
    )
)
def test_the_backend_alone_gives_the_ids_of_the_whole_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> None:
    class Slower(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, *args: Any, **settings: Any) -> Any:
            return super().__call__(*args, **settings)

    tokenizer.backend_tokenizer.enable_truncation(1)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    slower = copy.copy(tokenizer)
    slower.__class__ = Slower
    assert encode_texts(texts, tokenizer) == encode_texts(texts, slower)
    assert encode_texts(texts, tokenizer, side="text_target") == encode_texts(
        texts, slower, side="text_target"
    )


def test_ordinary_text_is_what_the_tokenizer_makes_of_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text = "hello the cat: 3 {x}"
    assert [*encode_texts([text], tokenizer)[0], END] == tokenizer(text)["input_ids"]
    assert UNKNOWN in encode_texts([text], tokenizer)[0]
    assert encode_texts([], tokenizer) == []


@pytest.mark.parametrize(
    ("side", "kept"), [("right", [10, 11, 12, 13]), ("left", [12, 13, 14, 15])]
)
def test_a_cut_source_keeps_its_end_token(side: str, kept: list[int]) -> None:
    found = features_of([10, 11, 12, 13, 14, 15], [20], T5, replace(RULES, truncate_source=side))
    assert found == Features([*kept, END], [20, END], source_truncated=True, target_truncated=False)


def test_at_the_limit_nothing_is_cut() -> None:
    assert features_of([10] * 4, [20] * 4, T5, RULES) == Features(
        [10] * 4 + [END], [20] * 4 + [END]
    )


def test_long_targets_are_dropped_cut_without_end_or_kept() -> None:
    target = [20, 21, 22, 23, 24, 25]
    assert features_of([10], target, T5, RULES) == "target longer than 5 tokens"
    cut = features_of([10], target, T5, replace(RULES, long_targets="cut"))
    assert cut == Features([10, END], target[:5], target_truncated=True)
    assert features_of([10], target, T5, replace(RULES, long_targets="keep")) == Features(
        [10, END], [*target, END]
    )
    # One too many only because of its end: every token stays, the end goes.
    assert features_of([10], target[:5], T5, replace(RULES, long_targets="cut")) == cut


def test_long_sources_can_be_dropped_and_empty_texts_are(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert (
        features_of([10] * 5, [20], T5, replace(RULES, truncate_source="drop"))
        == "source longer than 5 tokens"
    )
    assert features_of([], [20], T5, RULES) == "empty source after tokenising"
    assert features_of([10], [], T5, RULES) == "empty target after tokenising"


def test_encoding_a_source_is_what_training_saw(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "the cat sat hello good"
    for side, shown in (("left", "hello good</s>"), ("right", "the cat</s>")):
        rules = replace(RULES, max_source_tokens=3, truncate_source=side)
        pair = features_of(
            *encode_texts([text, "good"], tokenizer), special_token_templates(tokenizer), rules
        )
        assert isinstance(pair, Features)
        assert (
            encode_source(text, tokenizer, max_source_tokens=3, truncate_source=side)
            == pair.input_ids
        )
        assert tokenizer.decode(pair.input_ids) == shown


def test_the_clean_up_of_decoded_text_is_off(tokenizer: PreTrainedTokenizerBase) -> None:
    assert not tokenizer.clean_up_tokenization_spaces
    assert tokenizer.decode(encode_texts(["cat . sat"], tokenizer)[0]) == "cat . sat"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    for damaged in ('{"a":', '{"a": 1}', "[]"):
        (tmp_path / "tokenizer.json").write_text(damaged)
        with pytest.raises(Error):
            load_tokenizer(str(tmp_path))
