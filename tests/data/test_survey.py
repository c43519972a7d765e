"""What is counted of tokenised data: exact on sets made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_s2s.data.survey import Tally, histogram, tokens_report


def tally_of(sources: list[int], targets: list[int], **more: Any) -> Tally:
    lengths = {"source": np.bincount(sources), "target": np.bincount(targets)}
    return Tally(lengths=lengths, kept=len(sources), **more)


def test_lengths_are_told_exactly() -> None:
    # Of 1,001 sources 990 have 30 tokens, one 64, ten 200; targets have 1 to 1,001.
    report = tokens_report(tally_of([30] * 990 + [64] + [200] * 10, list(range(1, 1002))))
    assert report["source_tokens"] == {"p50": 30, "p90": 30, "p95": 30, "p99": 64, "max": 200}
    assert report["target_tokens"] == {"p50": 501, "p90": 901, "p95": 951, "p99": 991, "max": 1001}
    assert report["longer_than"]["source"] == {
        "32": round(11 / 1001, 6),
        **dict.fromkeys(("64", "96", "128", "192"), round(10 / 1001, 6)),
    }
    assert report["longer_than"]["target"]["512"] == round(489 / 1001, 6)
    assert max(map(int, report["longer_than"]["target"])) == 768  # none is longer than 1,024
    # A limit spares 99 of 100 sources and 999 of 1,000 targets a cut.
    assert report["suggested"] == {"max_source_tokens": 64, "max_target_tokens": 1024}


def test_a_limit_beyond_the_listed_ones_is_the_length_itself() -> None:
    report = tokens_report(tally_of([5000] * 3, [1]))
    assert report["suggested"] == {"max_source_tokens": 5000, "max_target_tokens": 32}


def test_bars_hold_every_row_and_the_last_one_all_that_is_long() -> None:
    assert histogram(np.zeros(0, np.int64)) == []
    assert histogram(np.bincount([1, 1, 3])) == [[0, 0], [1, 2], [2, 0], [3, 1]]
    bars = histogram(np.bincount([0, 1, 23, 24, 47] + [48] * 1000 + [9999]))
    assert bars[:2] == [[0, 2], [2, 0]]  # two lengths a bar
    assert bars[11:13] == [[22, 1], [24, 1]]
    assert bars[-1] == [48, 1001]
    assert sum(count for _, count in bars) == 1006


def test_two_halves_add_up_to_the_whole() -> None:
    one = tally_of([5, 6], [2, 3], alike=[np.array([7, 8], np.uint64)], copied=1)
    two = tally_of([9], [4], alike=[np.array([8], np.uint64)], copied=1)
    one.classes.update(yes=2)
    two.classes.update(yes=1, no=1)
    two.truncated["source"] = two.unknown["target"] = 1
    two.tokens["target"] = 8
    one.add(two)
    report = tokens_report(one)
    assert report["source_tokens"]["max"] == 9
    assert report["near_duplicates"] == 1
    assert report["target_in_source"] == round(2 / 3, 4)
    assert report["classes"] == {"yes": 3, "no": 1}
    assert report["truncated"] == {"source": 1, "target": 0}
    assert report["unknown_tokens"] == {"source": 0.0, "target": 0.125}


def test_nothing_at_all_is_counted_as_nothing() -> None:
    report = tokens_report(Tally())
    assert report["source_tokens"]["max"] == report["near_duplicates"] == 0
    assert report["histogram"] == {"source": [], "target": []}
