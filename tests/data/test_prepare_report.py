"""``report.html`` and the advice: data shown as text, nothing fetched, sentences that are right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from read_and_prepare import prepare

from lora_s2s.console import plain
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.data.report import advice
from lora_s2s.errors import UsageError

Write = Callable[[str, str], str]
Build = Callable[..., PreparedDataset]


@pytest.fixture
def prepared(write: Write, tmp_path: Path) -> Build:
    """Prepares (source, target) pairs for the bundled base; sources get a number that tells them
    apart.
    """

    def build(*pairs: tuple[str, str], **settings: Any) -> PreparedDataset:
        rows = "".join(
            json.dumps({"source": f"{one} {n}", "target": two}) + "\n"
            for n, (one, two) in enumerate(pairs)
        )
        given = {
            "model_name": "demo",
            "out": tmp_path / "out",
            "validation_fraction": 0.0,
            "previews": 1,
            **settings,
        }
        return prepare(train=write("a.jsonl", rows), **given)

    return build


class Page(HTMLParser):
    """Collects a page's tags, attributes and texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.texts, self.attributes = (
            set[str](),
            list[str](),
            dict[str, list[str | None]](),
        )
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def page_of(data: PreparedDataset) -> Page:
    return Page(data.path / "report.html")


EVIL = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "\x1b[31mred\x07",
    "'\"><b onclick=x>",
    "&lt;",
]


def test_text_from_data_is_shown_and_never_part_of_the_page(prepared: Build) -> None:
    # Few targets, each often: they are listed as classes too.
    data = prepared(
        *[(f"<script>{evil}", evil) for evil in EVIL * 12], previews=60, lossless_text="on"
    )
    page = page_of(data)
    assert page.tags <= set(
        "html head meta title style body main h1 h2 p section table caption thead tbody tr th td "
        "dl div dt dd b i".split()
    )
    assert set(page.attributes) <= {
        "aria-label",
        "role",
        "scope",
        "tabindex",
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "style",
        "title",
    }
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", page.html)
    for shown in (
        "<script>alert(1)</script>",
        "</td></table><img src=x onerror=alert(1)>",
        "\\x1b[31mred\\x07",
        "&lt;",
    ):
        assert shown in page.texts  # as a class, word for word


def test_the_page_refers_to_nothing_outside_itself(prepared: Build) -> None:
    page = page_of(prepared(*[("see http://example.org/a.png <link href=x>", "url(http://b)")] * 3))
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "a", "object", "base"})
    assert not {"href", "src"} & set(page.attributes)
    assert "default-src 'none'" in str(page.attributes["content"])
    style = re.search(r"<style>(.*?)</style>", page.html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_pieces_are_shown_with_what_spare_rows_carry_and_where_the_loss_is(prepared: Build) -> None:
    data = prepared(("if (a) {\n    b\n}", "{\n  世界}"), lossless_text="on")
    (pair,) = data.preview
    assert pair["source"]["text"] == "if (a) {\n    b\n} 0</s>"
    assert pair["target"]["text"] == "{\n  世界}</s>"
    pieces = pair["target"]["pieces"]
    assert [piece for piece in pieces if piece != "▁"] == ["{", "\n", "  ", "世", "界", "}", "</s>"]
    assert not re.search("[\ufdd0-\ufdef]", json.dumps(data.preview, ensure_ascii=False))
    page = page_of(data)
    shown = "".join(f"<b>{escape(plain(piece))}</b>" for piece in pieces)
    assert f'<p class="pieces loss">{shown}</p>' in page.html
    assert "<b>\\n</b>" in shown
    assert page.html.count('<p class="pieces">') == page.html.count('<p class="pieces loss">') == 1
    source, target = (pair[side]["tokens"] for side in ("source", "target"))
    assert (
        f"source: {source} tokens, no loss · target: {target} tokens, the loss is on each"
        in page.text
    )


def test_a_character_carried_by_the_mark_shows_the_mark(prepared: Build) -> None:
    many = "".join(chr(code) for code in range(0x4E00, 0x4E14))
    data = prepared(*[(many[:14], many[:14])] * 3, ("x", many[14:]), lossless_text="on", previews=9)
    pieces = data.preview[-1]["target"]["pieces"]
    assert "(escape)" in pieces
    assert data.preview[-1]["target"]["text"] == f"{many[14:]}</s>"


def test_what_the_vocabulary_loses_is_listed_with_lossless_off(prepared: Build) -> None:
    data = prepared(*[("a<b  c", "{x}\ny  z"), ("ж", "²  ²")], lossless_text="off")
    report = data.report
    assert report["lossless_text"] == []
    assert report["lost_characters"]["source"] == {
        "count": 2,
        "different": 2,
        "characters": [
            {
                "character": "<",
                "code": "U+003C",
                "name": "LESS-THAN SIGN",
                "count": 1,
                "becomes": "unknown",
            },
            {
                "character": "ж",
                "code": "U+0436",
                "name": "CYRILLIC SMALL LETTER ZHE",
                "count": 1,
                "becomes": "unknown",
            },
        ],
    }
    target = report["lost_characters"]["target"]
    assert (target["count"], target["different"]) == (5, 4)
    assert {one["character"]: one["becomes"] for one in target["characters"]} == {
        "²": "becomes '2'",
        "{": "unknown",
        "}": "unknown",
        "\n": "becomes ' '",
    }
    assert report["lost_runs_of_spaces"] == {"source": 1, "target": 2}
    assert report["advice"] == [
        "the targets lose 5 characters that the vocabulary lacks ('²' '\\n' '{' '}'); "
        "to keep the most frequent of them: --set data.lossless_text=on",
        "the sources lose 2 characters that the vocabulary lacks ('<' 'ж'); "
        "to keep the most frequent of them: --set data.lossless_text=on",
    ]
    page = page_of(data)
    assert "The vocabulary lacks 5 characters of the targets (4 different)." in page.text
    assert "1 in sources, 2 in targets" in page.text
    assert "CYRILLIC SMALL LETTER ZHE" in page.text


def test_with_lossless_on_nothing_is_lost(prepared: Build) -> None:
    data = prepared(("a<b  c", "{x}\ny  z"), ("ж", "²  ²"), lossless_text="on")
    report = data.report
    assert (
        report["lost_characters"]["target"]["count"]
        == report["lost_characters"]["source"]["count"]
        == 0
    )
    assert report["lost_runs_of_spaces"] == {"source": 0, "target": 0}
    assert report["unknown_tokens"] == {"source": 0, "target": 0}
    assert {"\n", "{", "ж", "²"} <= set(report["lossless_text"])
    assert report["advice"] == []
    assert "Every character of the targets comes back as written." in page_of(data).text


E2E = "The Aromi is a family friendly pub near the café, and its price range is £20-25."
CODE = "def f(x):\n    if x < 3:\n        return {x: [1, 2]}\n"


@pytest.mark.parametrize(
    ("targets", "on"),
    [
        ([E2E] * 40, False),
        ([CODE] * 40, True),
        ([E2E] * 999 + ["a { b"], True),  # a row in a thousand loses a character
        ([E2E] * 1999 + ["a { b"], False),
        (
            [
                "".join(chr(0x4E00 + 41 * row + 7 * place) for place in range(30))
                for row in range(40)
            ],
            False,
        ),
        (["yes  no"] * 40, False),  # spaces alone are no reason
    ],
    ids=["sentences", "code", "one in a thousand", "one in two thousand", "Chinese", "spaces"],
)
def test_auto_carries_characters_where_that_saves_most_of_them(
    targets: list[str], on: bool, prepared: Build
) -> None:
    data = prepared(*[("name", target) for target in targets])
    assert bool(data.report["lossless_text"]) == on
    if not on and targets[0] != E2E and "yes" not in targets[0]:
        assert data.report["lost_characters"]["target"]["count"] == 1200
        assert "that the vocabulary lacks" in data.report["advice"][0]


def test_on_is_refused_for_a_base_without_spare_rows(
    write: Write, tokenizer_folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "base"
    config.mkdir()
    for path in tokenizer_folder.iterdir():
        (config / path.name).write_bytes(path.read_bytes())
    (config / "config.json").write_text('{"model_type": "t5", "vocab_size": 100}')
    path = write("a.jsonl", '{"source": "the cat", "target": "sat"}\n')
    settings = {
        "train": path,
        "model_name": str(config),
        "out": tmp_path / "out",
        "validation_fraction": 0.0,
    }
    with pytest.raises(
        UsageError,
        match=r"data.lossless_text=on needs 12 unused embedding rows or more, the base has \d",
    ) as no:
        prepare(**settings, lossless_text="on")
    assert "data.lossless_text=off" in str(no.value.hint)
    assert not (tmp_path / "out").exists()
    assert prepare(**settings, lossless_text="auto").report["lossless_text"] == []


def limits(source: int, target: int) -> dict[str, Any]:
    sides = {"max_source_tokens": source, "max_target_tokens": target}
    return {key: {"tokens": tokens, "by": "recipe"} for key, tokens in sides.items()}


def report_of(**changes: Any) -> dict[str, Any]:
    """A report that calls for no advice."""
    none = {"count": 0, "different": 0, "characters": []}
    plain: dict[str, Any] = {
        "rows": {"kept": 1000},
        "splits": {"train": 1000},
        "near_duplicates": 0,
        "target_in_source": 0.0,
        "classes": {},
        "identical": 0,
        "near_leaks": 0,
        "labels": {},
        "limits": limits(512, 128),
        "longer_than": {"source": {}, "target": {}},
        "suggested": {"max_source_tokens": 64, "max_target_tokens": 32},
        "source_tokens": {"max": 60},
        "target_tokens": {"max": 30},
        "lossless_text": [],
        "lost_characters": {"source": none, "target": none},
    }
    return plain | changes


def lost(*characters: str, each: int = 1) -> dict[str, Any]:
    listed = [{"character": one} for one in characters]
    return {
        "target": {"count": each * len(listed), "different": len(listed), "characters": listed},
        "source": {"count": 0, "different": 0, "characters": []},
    }


OTHERS = "a base that reads bytes (google/byt5-small) or more scripts (google/mt5-small) keeps"
LONG: dict[str, Any] = {
    "source_tokens": {"max": 2000},
    "longer_than": {"source": {"512": 0.0321}, "target": {}},
    "suggested": {"max_source_tokens": 1024, "max_target_tokens": 32},
}


@pytest.mark.parametrize(
    ("changes", "spare", "said"),
    [
        ({}, True, None),
        (
            LONG,
            True,
            "3.2% of the sources are longer than 512 tokens; to keep most of them: --set "
            "data.max_source_tokens=1024",
        ),
        (
            {"near_duplicates": 11},
            True,
            "11 pairs equal to another up to case, spaces and punctuation",
        ),
        (
            {"near_duplicates": 1, "rows": {"kept": 9}},
            True,
            "1 pair equal to another up to case, spaces and punctuation",
        ),
        ({"near_duplicates": 10}, True, None),
        ({"target_in_source": 0.62}, True, None),  # extractive answers
        ({"identical": 10}, True, None),
        (
            {"identical": 120},
            True,
            "12% of the targets equal their source: is copying intended?",
        ),
        (
            {"near_leaks": 7, "splits": {"train": 930, "validation": 70}},
            True,
            "7 held-out rows (10%) with a source that differs from one in train only in case, "
            "spaces or punctuation: scores may be too high",
        ),
        (
            {
                "classes": {"a": 500, "b": 480, "c": 20},
                "labels": {"count": 3, "most": 500, "least": 20},
            },
            True,
            "3 labels, the most frequent in 500 rows, the rarest in 20 rows: compare macro-F1, not "
            "only accuracy",
        ),
        (
            {
                "classes": {"a": 500, "b": 475, "c": 25},
                "labels": {"count": 3, "most": 500, "least": 25},
            },
            True,
            None,
        ),
        (
            {**LONG, "suggested_bytes": {"source": 140e9}},
            True,
            "3.2% of the sources are longer than 512 tokens; 1,024 would keep most of them, but "
            "training on one such row takes about 140 GB: split the texts into several rows, or "
            "use a base for long inputs (google/long-t5-tglobal-base)",
        ),
        ({"classes": {"yes": 940, "no": 60}}, True, "one target makes up 94% of the training rows"),
        ({"classes": {"yes": 900, "no": 100}}, True, None),
        (
            {"lost_characters": lost("{")},
            True,
            "the targets lose 1 character that the vocabulary lacks ('{'); to keep it: "
            "--set data.lossless_text=on",
        ),
        (
            {"lost_characters": lost("{", each=2)},
            True,
            "the targets lose 2 characters that the vocabulary lacks ('{'); to keep it: "
            "--set data.lossless_text=on",
        ),
        (
            {"lost_characters": lost("{", "}")},
            True,
            "the targets lose 2 characters that the vocabulary lacks ('{' '}'); "
            "to keep the most frequent of them: --set data.lossless_text=on",
        ),
        (
            {"lost_characters": lost("世")},
            False,
            f"the targets lose 1 character that the vocabulary lacks ('世'); {OTHERS} it",
        ),
        (
            {"lost_characters": lost("世", "界", each=600), "lossless_text": ["\n"]},
            True,
            "the targets lose 1,200 characters that the vocabulary lacks ('世' '界'); "
            f"{OTHERS} them",
        ),
    ],
)
def test_advice_word_for_word(changes: dict[str, Any], spare: bool, said: str | None) -> None:
    assert advice(report_of(**changes), spare=spare) == ([] if said is None else [said])


def test_a_limit_that_nothing_exceeds_needs_no_advice() -> None:
    # The listed limit that suits the data lies above the user's own, which suits it as well.
    assert advice(report_of(limits=limits(60, 30)), spare=True) == []
    assert len(advice(report_of(limits=limits(59, 29)), spare=True)) == 2
