"""The demo task: seeded, splits that share nothing, records a message really contains."""

from __future__ import annotations

import re

import pytest

from lora_s2s.demo.task import SIZES, Booking, examples
from lora_s2s.errors import UsageError

RECORD = re.compile(
    r"name: [A-Z]\w+ [A-Z]\w+ \| people: (\d+) \| day: \w+day"
    r" \| time: (\d\d):(00|15|30|45) \| phone: (none|\d{3}-\d{4})"
)


def test_the_same_seed_gives_the_same_examples() -> None:
    assert examples("test") == examples("test")
    assert examples("train", 50) == examples("train")[:50]
    assert examples("test", 50) != examples("test", 50, seed=1)
    assert {split: len(examples(split)) for split in SIZES} == SIZES


def test_splits_share_no_message_and_no_surname() -> None:
    pairs = {split: examples(split) for split in SIZES}
    for left, right in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not {source for source, _ in pairs[left]} & {source for source, _ in pairs[right]}
        surnames = [
            {target.split(" | ")[0].split()[-1] for _, target in pairs[split]}
            for split in (left, right)
        ]
        assert not surnames[0] & surnames[1]


def test_every_record_is_clean_and_its_name_and_phone_stand_in_the_message() -> None:
    for source, target in examples("test"):
        match = RECORD.fullmatch(target)
        assert match, target
        assert 2 <= int(match[1]) <= 10
        assert 17 <= int(match[2]) <= 21
        assert target.split(" | ")[0].removeprefix("name: ") in source
        assert (match[4] in source) != (match[4] == "none")


def test_a_record_reads_as_documented() -> None:
    booking = Booking("Marta Quillfeather", 4, "Friday", 19 * 60 + 30, "555-0142")
    assert (
        booking.record()
        == "name: Marta Quillfeather | people: 4 | day: Friday | time: 19:30 | phone: 555-0142"
    )


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(UsageError, match="no split 'dev'"):
        examples("dev")
