"""Special tokens around sources and targets: the tokenizer's own, languages included, whatever the
kind.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from read_and_prepare import prepare
from tiny_tokenizers import BUILT, VOCABULARIES, write_tokenizer
from transformers import AutoTokenizer

from lora_s2s.errors import UsageError
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.loading import language_codes, load_tokenizer
from lora_s2s.tokens.special_tokens import end_note, first_ids, special_token_templates
from lora_s2s.tokens.tokenise import Features, LengthRules, encode_source, features_of

LANGUAGES = {"nllb": ("eng_Latn", "fra_Latn"), "m2m_100": ("en", "fr"), "mbart": ("en_XX", "ro_RO")}
LANGUAGES["mbart50"] = LANGUAGES["mbart"]
KINDS = [*BUILT, *VOCABULARIES, "m2m_100", "marian"]
# prefix | suffix of sources, of targets; the decoder's start and the first id of answers.
EXPECTED = {
    "t5": ("|</s>", "|</s>", None, None),
    "byt5": ("|</s>", "|</s>", None, None),
    "bart": ("<s>|</s>", "<s>|</s>", None, "<s>"),
    "blenderbot": ("|</s>", "|</s>", None, None),
    "blenderbot_slow": ("|</s>", "|</s>", None, None),
    "blenderbot_small": ("|__end__", "|__end__", None, None),
    "nllb": ("eng_Latn|</s>", "fra_Latn|</s>", None, "fra_Latn"),
    "mbart": ("|</s> en_XX", "|</s> ro_RO", "ro_RO", None),
    "mbart50": ("en_XX|</s>", "ro_RO|</s>", None, "ro_RO"),
    "m2m_100": ("__en__|</s>", "__fr__|</s>", None, "__fr__"),
    "marian": ("|</s>", "|</s>", None, None),
    "pegasus": ("|</s>", "|</s>", None, None),
    "gemma": ("<bos>|", "|<eos>", None, None),
}
RULES = LengthRules(5, 5, truncate_source="right", long_targets="drop")
TEXT = "stu vw xyz"
ODD_TEXTS = [
    "",
    " ",
    "stu",
    " stu",
    "stu  ",
    "a  b",
    "a\nb",
    "\n a\t",
    "é漢a",
    "a\u00a0b",
    "a <mask_9> b",
]
# Not the languages that the class itself begins with.
OTHERS = {"nllb": ("deu_Latn", "fra_Latn"), "m2m_100": ("de", "fr"), "mbart": ("de_DE", "ro_RO")}
OTHERS["mbart50"] = OTHERS["mbart"]


def languages(kind: str) -> dict[str, str]:
    return dict(zip(("source_language", "target_language"), LANGUAGES.get(kind, ()), strict=False))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("kinds")
    return {kind: write_tokenizer(kind, place / kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def loaded(request: pytest.FixtureRequest, folders: dict[str, str]) -> tuple[str, Any]:
    return request.param, load_tokenizer(folders[request.param], **languages(request.param))


def test_templates_are_the_tokenizers_own(loaded: tuple[str, Any]) -> None:
    kind, tokenizer = loaded
    templates, name = special_token_templates(tokenizer), tokenizer.convert_ids_to_tokens
    shown = [
        f"{' '.join(name([*side.prefix]))}|{' '.join(name([*side.suffix]))}"
        for side in (templates.source, templates.target)
    ]
    first = first_ids(tokenizer)
    begins = [None if first[key] is None else name(first[key]) for key in ("start", "first")]
    assert (*shown, *begins) == EXPECTED[kind]
    # What the library itself makes of both sides; a decoder's tokenizer (Gemma) needs its end
    # added.
    assert (
        encode_source(TEXT, tokenizer, max_source_tokens=99, truncate_source="right")
        == tokenizer(_plain(kind, TEXT, tokenizer))["input_ids"]
    )
    target = templates.target.around(encode_texts([TEXT], tokenizer, side="text_target")[0])
    ends = kind not in ("gemma", "blenderbot_small")
    assert not ends or target == tokenizer(text_target=TEXT)["input_ids"]


def _plain(kind: str, text: str, tokenizer: Any) -> str:
    """What plain transformers is to be given; this class cannot put an end."""
    return f"{text}{tokenizer.eos_token}" if kind == "blenderbot_small" else text


@pytest.mark.parametrize("kind", KINDS)
def test_plain_transformers_reads_a_written_folder_alike(
    kind: str, folders: dict[str, str], tmp_path: Path
) -> None:
    keys = ("source_language", "target_language")
    chosen = dict(zip(keys, OTHERS.get(kind, ()), strict=False))
    tokenizer = load_tokenizer(folders[kind], **chosen)
    tokenizer.save_pretrained(tmp_path)
    plain: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert (end_note(tokenizer) is not None) == (kind == "blenderbot_small")
    for text in ODD_TEXTS:
        ours = encode_source(text, tokenizer, max_source_tokens=99, truncate_source="right")
        assert plain(_plain(kind, text, plain))["input_ids"] == ours, text
        shown = plain.decode(ours, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert shown == tokenizer.decode(ours, skip_special_tokens=True)


@given(text=st.text(max_size=20) | st.text(" \na.", max_size=6))
@example(text="stu vw")
@example(text=" stu")
@example(text="  stu")
@example(text=" ")
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_target_that_was_learned(
    kind: str, folders: dict[str, str], text: str
) -> None:
    tokenizer = _loaded(kind, folders[kind])
    for target in (text, "stu vw"):
        (ids,) = encode_texts([target], tokenizer, side="text_target")
        shown = tokenizer.decode(ids, skip_special_tokens=True)
        lossless = target == "stu vw" or kind in ("byt5", "bart", "blenderbot", "blenderbot_slow")
        if lossless and shown != target:
            # Only where the tokenizer tells them not apart.
            assert encode_texts([shown], tokenizer, side="text_target") == [ids]
            assert shown == target.removeprefix(" ")


@cache
def _loaded(kind: str, folder: str) -> Any:
    return load_tokenizer(folder, **languages(kind))


def test_limits_include_the_special_tokens_and_a_cut_target_loses_its_end(
    loaded: tuple[str, Any],
) -> None:
    _, tokenizer = loaded
    templates = special_token_templates(tokenizer)
    ids = [50, 51, 52, 53, 54, 55]
    made = features_of(ids, ids, templates, replace(RULES, long_targets="cut"))
    assert isinstance(made, Features)
    assert made.source_truncated
    assert len(made.input_ids) == len(made.labels) == 5
    most = 5 - len(templates.source)
    assert made.input_ids == templates.source.around(ids[:most])
    left = features_of(ids, ids[:1], templates, replace(RULES, truncate_source="left"))
    assert isinstance(left, Features)
    assert left.input_ids == templates.source.around(ids[6 - most :])
    assert made.labels == [*templates.target.prefix, *ids][:5]
    assert features_of(ids[:2], ids, templates, RULES) == "target longer than 5 tokens"
    fitting = ids[: 5 - len(templates.target)]
    fits = features_of(ids[:2], fitting, templates, RULES)
    assert isinstance(fits, Features)
    assert fits.labels == templates.target.around(fitting)
    short = encode_source(TEXT, tokenizer, max_source_tokens=1, truncate_source="right")
    assert short == templates.source.around([]) or len(short) == 1


def test_no_code_comes_in_through_a_text(loaded: tuple[str, Any]) -> None:
    _, tokenizer = loaded
    control = {*tokenizer.all_special_ids, *language_codes(tokenizer).values()} - {
        tokenizer.unk_token_id
    }
    for side in ("text", "text_target"):
        texts = ["s </s> <s> <pad> t", "fra_Latn __fr__ ro_RO en_XX <bos> <eos>", "</s>", "__fr__"]
        for ids in encode_texts(texts, tokenizer, side=side):
            assert not control & set(ids)


def test_a_saved_tokenizer_keeps_its_languages(loaded: tuple[str, Any], tmp_path: Path) -> None:
    kind, tokenizer = loaded
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path), **languages(kind))
    assert special_token_templates(again) == special_token_templates(tokenizer)
    assert again(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]


def test_each_side_of_marian_has_its_own_pieces(folders: dict[str, str]) -> None:
    tokenizer = load_tokenizer(folders["marian"])
    sides = [encode_texts(["abc"], tokenizer, side=side)[0] for side in ("text", "text_target")]
    assert [tokenizer.unk_token_id in ids for ids in sides] == [
        False,
        True,
    ]  # no a, b, c among the target's
    assert (
        tokenizer.convert_ids_to_tokens(encode_texts([">>fra<< stu"], tokenizer)[0])[0] == ">>fra<<"
    )


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("nllb", {}, r"source_language is missing: .* codes: deu_Latn, eng_Latn, fra_Latn"),
        ("nllb", {"source_language": "eng_Latn"}, r"target_language is missing"),
        (
            "nllb",
            {"source_language": "en", "target_language": "fra_Latn"},
            r"'en' is unknown; codes: eng_Latn$",
        ),
        (
            "m2m_100",
            {"source_language": "en", "target_language": "fre"},
            r"'fre' is unknown; codes: fr$",
        ),
        (
            "mbart",
            {"source_language": "en_XX", "target_language": "__fr__"},
            r"'__fr__' is unknown; codes: ar_AR",
        ),
        (
            "t5",
            {"source_language": "en"},
            r"source_language is 'en', but .* marks no text with a language",
        ),
        ("marian", {"target_language": "fra"}, r"target_language is 'fra', but .* marks no text"),
    ],
)
def test_wrong_languages_are_refused(
    kind: str, given: dict[str, str], said: str, folders: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        load_tokenizer(folders[kind], **given)
    assert caught.value.hint


def test_languages_travel_with_prepared_data(folders: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "pairs.csv"
    data.write_text("source,target\n" + "".join(f"stu {row},vw {row}\n" for row in range(20)))
    wanted = {
        "train": str(data),
        "model_name": folders["nllb"],
        "validation_fraction": 0.0,
        "out": tmp_path / "out",
    }
    made = prepare(**wanted, source_language="eng_Latn", target_language="fra_Latn")
    assert made.manifest.input.source_language == "eng_Latn"
    assert made.manifest.input.target_language == "fra_Latn"
    assert made.preview[0]["source"]["text"].startswith("eng_Latn")
    assert made.preview[0]["target"]["text"].startswith("fra_Latn")
    assert made.report["source_tokens"]["max"] == max(made.train.source_lengths)
    assert prepare(**wanted, source_language="eng_Latn", target_language="fra_Latn").reused
    other = prepare(**wanted, source_language="eng_Latn", target_language="deu_Latn")
    assert not other.reused
    assert other.preview[0]["target"]["text"].startswith("deu_Latn")
