"""The demo task: a messy booking message becomes a clean record.

    hiya its Marta Quillfeather, can u do a table for four on fri at 7.30pm? my number is 555-0142
    thx → name: Marta Quillfeather | people: 4 | day: Friday | time: 19:30 | phone: 555-0142

Everything is generated from a seed. The splits share no message and no surname, so a good score on
``test`` means that names never seen before were copied, and days, times and numbers were
understood.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from lora_s2s.errors import UsageError

SIZES = {"train": 6000, "validation": 200, "test": 250}
SEED = 20261124

_FIRST_NAMES = (
    "Marta Oskar Ines Tobias Priya Callum Noor Felix Greta Hamish Leila Viktor Saoirse Dmitri "
    "Amara Jonas Wanda Rafael Mabel Ivo Petra Quentin Zara Edwin Freya Hugo Lotte Marcus Nadia "
    "Otis Paloma Rufus Sanna Theo Una Vera Wilf Yusuf"
).split()
_SURNAME_STARTS = (
    "Quill Hart Bram Ash Thorn Mar Win Hol Fen Cal Stan Whit Lang Ros Black Green Pem Har Kings "
    "Wood Dun El Mor Til Cope Bar Sund Lin Ver Ock Bel Gar"
).split()
_SURNAME_ENDS = (
    "feather bury well ley worth ford stone field more by wick ton man shaw croft ham den ridge "
    "wood ling mere berg son dale ster ell"
).split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_NUMBERS = "two three four five six seven eight nine ten".split()
_GREETINGS = (
    "hi",
    "hiya",
    "hey there",
    "hello",
    "good morning",
    "evening all",
    "yo",
    "hi guys",
    "",
)
_GOODBYES = ("thx", "thanks a lot", "cheers", "ta", "see u then", "thank you!!", "many thanks", "")
_NAMES = (
    "its {}",
    "this is {}",
    "{} here",
    "my name's {}",
    "name is {}",
    "book it under {}",
    "it's for {}",
)
_PEOPLE = (
    "table for {}",
    "we are {}",
    "there'll be {} of us",
    "{} people",
    "party of {}",
    "need {} seats",
    "{} of us coming",
)
_ON_DAY = ("on {}", "this {}", "next {}", "{} would be great", "for {} pls", "come {}")
_AT_TIME = ("at {}", "around {}", "{} if poss", "say {}", "we'd get there for {}", "about {}")
_PHONES = (
    "my number is {}",
    "call me on {}",
    "ring {} if any probs",
    "tel {}",
    "reach me at {}",
    "phone {}",
)
_CHATTER = (
    "sorry for the late notice",
    "can u do that",
    "hope ur well",
    "we loved it last time",
    "window seat if u can",
    "its a birthday",
    "no rush",
    "let me know asap",
    "one of us is veggie",
    "kids are coming too",
)


@dataclass(frozen=True)
class Booking:
    """The clean record behind one message; ``minutes`` count from midnight."""

    name: str
    people: int
    day: str
    minutes: int
    phone: str | None

    def record(self) -> str:
        """Returns the target text."""
        time = f"{self.minutes // 60}:{self.minutes % 60:02d}"
        phone = self.phone or "none"
        return (
            f"name: {self.name} | people: {self.people} | day: {self.day} | time: {time} | phone: "
            f"{phone}"
        )


def examples(split: str, count: int | None = None, *, seed: int = SEED) -> list[tuple[str, str]]:
    """Returns ``(message, record)`` pairs of one split, the same for the same seed.

    Args:
        split: ``train``, ``validation`` or ``test``; they share no message and no surname.
        count: how many; by default :data:`SIZES`.
        seed: changes every split.

    Raises:
        UsageError: the split does not exist.
    """
    if split not in SIZES:
        raise UsageError(
            f"the demo task has no split '{split}'", hint=f"use one of {', '.join(SIZES)}"
        )
    pairs = _pairs(split, random.Random(f"{seed}-{split}"))
    return [next(pairs) for _ in range(SIZES[split] if count is None else count)]


def _pairs(split: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    surnames = _surnames(split)
    while True:
        booking = _booking(rng, surnames)
        message = _message(booking, rng)
        if message not in seen:
            seen.add(message)
            yield message, booking.record()


def _surnames(split: str) -> list[str]:
    """All surnames of a split: of every ten, one is for test, one for validation, eight for
    train.
    """
    everything = [start + end for start in _SURNAME_STARTS for end in _SURNAME_ENDS]
    random.Random(SEED).shuffle(everything)
    owner = {0: "test", 1: "validation"}
    return [
        name for index, name in enumerate(everything) if owner.get(index % 10, "train") == split
    ]


def _booking(rng: random.Random, surnames: list[str]) -> Booking:
    phone = (
        f"{rng.randrange(100, 1000)}-{rng.randrange(10000):04d}" if rng.random() < 0.75 else None
    )
    return Booking(
        name=f"{rng.choice(_FIRST_NAMES)} {rng.choice(surnames)}",
        people=rng.randrange(2, 11),
        day=rng.choice(_DAYS),
        minutes=rng.randrange(17 * 4, 22 * 4) * 15,
        phone=phone,
    )


def _message(booking: Booking, rng: random.Random) -> str:
    people = rng.choice((str(booking.people), _NUMBERS[booking.people - 2]))
    clauses = [
        rng.choice(_NAMES).format(booking.name),
        rng.choice(_PEOPLE).format(people),
        rng.choice(_ON_DAY).format(_spoken_day(booking.day, rng)),
        rng.choice(_AT_TIME).format(_spoken_time(booking.minutes, rng)),
    ]
    if booking.phone:
        clauses.append(rng.choice(_PHONES).format(booking.phone))
    clauses.extend(rng.sample(_CHATTER, rng.randrange(3)))
    rng.shuffle(clauses)
    body = "".join(clause + rng.choice((", ", " ", ". ", " - ")) for clause in clauses)
    parts = (rng.choice(_GREETINGS), body.rstrip(" ,-"), rng.choice(_GOODBYES))
    return " ".join(part for part in parts if part)


def _spoken_day(day: str, rng: random.Random) -> str:
    return rng.choice((day, day.lower(), day[:3].lower(), day[:3]))


def _spoken_time(minutes: int, rng: random.Random) -> str:
    """Evening times as people write them: 7pm, 7.30pm, half past 7, quarter to 8, 19:30."""
    hour, minute = minutes // 60, minutes % 60
    if rng.random() < 0.25:
        return f"{hour}:{minute:02d}"
    if minute == 0:
        return rng.choice((f"{hour - 12}pm", f"{hour - 12} pm", f"{hour - 12} o'clock"))
    if rng.random() < 0.5:
        return rng.choice((f"{hour - 12}.{minute:02d}pm", f"{hour - 12}:{minute:02d} pm"))
    return {
        15: f"quarter past {hour - 12}",
        30: f"half past {hour - 12}",
        45: f"quarter to {hour - 11}",
    }[minute]
