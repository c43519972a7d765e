"""Tasks that `benchmarks/defaults.py` trains on: generated from a seed, or sampled from published
data sets.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Pair = tuple[str, str]

_SCORED = 250
_FIRST = (
    "Ada Boris Clara Dinesh Elif Fiona Goran Hanna Ivan Jamila Kofi Lena Mikko Nora Omar Pia Rosa "
    "Sven".split()
)
_LAST = (
    "Abbot Brandt Castillo Dahl Eriksen Fontana Grau Haddad Ito Jansen Kowalski Lund Moreau Novak "
    "Okafor".split()
)
_WORDS = (
    "river stone light garden window yellow paper quiet morning silver bridge orange letter market "
    "winter summer forest copper simple narrow gentle distant hidden broken golden wooden little "
    "heavy early late open closed"
).split()
_MONTHS = (
    "January February March April May June July August September October November December".split()
)
_CITIES = (
    "Leeds York Bath Derby Truro Lisbon Turin Ghent Bergen Malmo Graz Basel Riga "
    "Porto Cork Lyon".split()
)

_OBJECTS = {
    "card": ("card", "debit card", "bank card", "plastic"),
    "transfer": ("transfer", "wire", "bank transfer", "payment to my friend"),
    "top_up": ("top up", "top-up", "money I added", "reload"),
    "cash": ("cash withdrawal", "money from the machine", "ATM withdrawal", "cash"),
    "pin": ("PIN", "pin code", "four digit code", "pass number"),
    "account": ("account", "profile", "login", "membership"),
    "refund": ("refund", "money back", "reimbursement", "repayment"),
    "exchange": ("exchange rate", "currency conversion", "foreign money", "rate for euros"),
    "direct_debit": ("direct debit", "standing order", "monthly payment", "subscription"),
    "app": ("app", "phone application", "mobile app", "program on my phone"),
    "identity": ("identity check", "ID verification", "passport check", "proof of who I am"),
}
_ACTIONS = {
    "not_arrived": (
        "has not come yet",
        "still did not show up",
        "never got here",
        "is nowhere to be seen",
    ),
    "wrong_amount": (
        "has the wrong amount",
        "is not what I expected",
        "shows too much",
        "is off by a few pounds",
    ),
    "cancel": (
        "should be stopped",
        "must be cancelled please",
        "I do not want any more",
        "please call it off",
    ),
    "failed": ("did not work", "was declined", "keeps failing", "gives me an error"),
    "how_to": (
        "how do I set it up",
        "where do I start",
        "what are the steps",
        "can you explain how it works",
    ),
    "fee": (
        "why was I charged for it",
        "what does it cost",
        "there is an extra fee",
        "is it free of charge",
    ),
    "change": (
        "I want to change it",
        "needs an update",
        "can I switch it",
        "I would like another one",
    ),
}
_CHATTER = (
    "",
    "",
    "hello there",
    "hi",
    "sorry to bother you",
    "I am in a hurry",
    "thanks",
    "I checked my email twice",
    "my friend told me to ask",
    "I am travelling next week",
    "this is the second time I write",
    "good morning",
)


def _labels77(rng: random.Random) -> Iterator[Pair]:
    """77 intents of a bank's customers: 11 objects x 7 actions, each said in four ways."""
    while True:
        thing, action = rng.choice(list(_OBJECTS)), rng.choice(list(_ACTIONS))
        said, done = rng.choice(_OBJECTS[thing]), rng.choice(_ACTIONS[action])
        body = rng.choice(
            (f"my {said} {done}", f"about the {said}: {done}", f"{done} - I mean my {said}")
        )
        parts = [rng.choice(_CHATTER), body, rng.choice(_CHATTER)]
        yield " ".join(part for part in parts if part), f"{thing}_{action}"


_FILLERS = (
    "please really just now today actually quite maybe still again also really honestly basically "
    "somehow since yesterday this morning I think you know as far as I can tell for some reason to "
    "be fair at the moment"
).split()


def _misspelt(word: str, rng: random.Random) -> str:
    """Swaps two letters of a word."""
    place = rng.randrange(len(word) - 1)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _intents77(rng: random.Random) -> Iterator[Pair]:
    """The 77 intents said as people type: fillers, misspelt words, and something beside the point
    before it.
    """
    for source, label in _labels77(rng):
        words = source.split()
        for _ in range(rng.randrange(7)):
            words.insert(rng.randrange(len(words) + 1), rng.choice(_FILLERS))
        words = [
            _misspelt(word, rng) if len(word) > 3 and rng.random() < 0.12 else word
            for word in words
        ]
        if rng.random() < 0.4:
            other = rng.choice(rng.choice(list(_OBJECTS.values())))
            words = [*f"I asked about my {other} before, that is fine.".split(), *words]
        yield " ".join(words), label


def _orders(rng: random.Random) -> Iterator[Pair]:
    """Extraction: an order in a message becomes fields."""
    items = "pens boxes lamps chairs maps mugs ropes candles plates towels".split()
    colours = "red blue green black white grey".split()
    while True:
        name = f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
        count, item, colour = rng.randrange(2, 100), rng.choice(items), rng.choice(colours)
        day, month, city = rng.randrange(1, 29), rng.randrange(12), rng.choice(_CITIES)
        date = rng.choice(
            (
                f"{_MONTHS[month]} {day}",
                f"the {day} of {_MONTHS[month]}",
                f"{day} {_MONTHS[month][:3]}",
            )
        )
        clauses = [
            rng.choice(
                (f"we need {count} {colour} {item}", f"please send {count} {item} in {colour}")
            ),
            rng.choice((f"for {name}", f"to the attention of {name}", f"{name} will sign")),
            rng.choice((f"deliver to {city}", f"the office in {city}", f"ship it to {city}")),
            rng.choice((f"before {date}", f"not later than {date}", f"by {date}")),
        ]
        rng.shuffle(clauses)
        fields = (
            f"item: {colour} {item} | count: {count} | name: {name} | city: {city} | date: "
            f"{month + 1:02d}-{day:02d}"
        )
        yield rng.choice((", ", " ", ". ")).join(clauses), fields


def _reverse(rng: random.Random) -> Iterator[Pair]:
    """The words in reverse order."""
    while True:
        words = rng.sample(_WORDS, rng.randrange(3, 7))
        yield "reverse: " + " ".join(words), " ".join(reversed(words))


def _format(rng: random.Random) -> Iterator[Pair]:
    """A contact line in another format: names turned, the number grouped."""
    while True:
        first, last, city = rng.choice(_FIRST), rng.choice(_LAST), rng.choice(_CITIES)
        number = f"{rng.randrange(10**5, 10**6)}"
        yield (
            f"{first} {last}, {city}, tel {number}",
            f"{last}, {first} ({city}) {number[:3]}-{number[3:]}",
        )


def _dates(rng: random.Random) -> Iterator[Pair]:
    """A date as people write it becomes ISO 8601."""
    while True:
        year, month, day = rng.randrange(1950, 2030), rng.randrange(12), rng.randrange(1, 29)
        name = rng.choice((_MONTHS[month], _MONTHS[month][:3]))
        forms = (
            f"{name} {day}, {year}",
            f"{day} {name} {year}",
            f"{day}/{month + 1}/{year}",
            f"{year} {name} {day}",
        )
        yield rng.choice(forms), f"{year}-{month + 1:02d}-{day:02d}"


def _sort(rng: random.Random) -> Iterator[Pair]:
    """Words in alphabetical order, each with its place: hard for a small base."""
    while True:
        words = rng.sample(_WORDS, rng.randrange(3, 7))
        yield (
            "sort: " + " ".join(words),
            " ".join(f"{place} {word}" for place, word in enumerate(sorted(words), 1)),
        )


def _few_labels(rng: random.Random) -> Iterator[Pair]:
    """Seven labels: the actions of the bank's customers."""
    for source, label in _labels77(rng):
        yield source, next(action for action in _ACTIONS if label.endswith(action))


def _read(path: Path) -> list[Pair]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    if ".csv" in path.name:
        return [(row["mr"], row["ref"]) for row in csv.DictReader(io.StringIO(text, newline=""))]
    return [(row["input"], row["target"]) for row in map(json.loads, text.splitlines())]


def _sampled(pairs: list[Pair], count: int = _SCORED) -> list[Pair]:
    """All pairs of a seeded sample of distinct sources."""
    chosen = random.Random(1).sample(sorted({source for source, _ in pairs}), count)
    wanted = set(chosen)
    return [pair for pair in pairs if pair[0] in wanted]


def _disfl(data: Path) -> tuple[list[Pair], list[Pair]]:
    return _read(data / "disfl-qa/train.jsonl"), _sampled(_read(data / "disfl-qa/test.jsonl"))


def _e2e(data: Path) -> tuple[list[Pair], list[Pair]]:
    return _read(data / "e2e-nlg/trainset.csv.gz"), _sampled(
        _read(data / "e2e-nlg/testset_w_refs.csv.gz")
    )


def _nl2bash(data: Path) -> tuple[list[Pair], list[Pair]]:
    pairs = _read(data / "nl2bash/all.jsonl.gz")
    scored = _sampled(pairs)
    held = {source for source, _ in scored}
    return [pair for pair in pairs if pair[0] not in held], scored


@dataclass(frozen=True)
class Task:
    """What is trained and what is scored; ``rows`` generated, or read from published files."""

    metric: str
    rows: int = 0
    generate: Callable[[random.Random], Iterator[Pair]] | None = None
    read: Callable[[Path], tuple[list[Pair], list[Pair]]] | None = None
    metrics: tuple[str, ...] = field(default=())

    def pairs(self, data: Path) -> tuple[list[Pair], list[Pair]]:
        """Returns the training pairs and the scored pairs; no source is in both."""
        if self.read is not None:
            return self.read(data)
        made: dict[str, str] = {}
        for source, target in self.generate(random.Random(7)) if self.generate else ():
            made.setdefault(source, target)
            if len(made) == self.rows + _SCORED:
                break
        pairs = list(made.items())
        return pairs[_SCORED:], pairs[:_SCORED]


TASKS: dict[str, Task] = {
    "labels77": Task("exact_match", 12_000, _labels77),
    "intents77": Task("exact_match", 13_000, _intents77),
    "orders": Task("exact_match", 3_000, _orders),
    "reverse": Task("exact_match", 2_400, _reverse),
    "format": Task("exact_match", 2_400, _format),
    "dates": Task("exact_match", 2_400, _dates),
    "sort": Task("exact_match", 2_400, _sort),
    "labels7-300": Task("exact_match", 300, _few_labels),
    "format-300": Task("exact_match", 300, _format),
    "labels77-2400": Task("exact_match", 2_400, _labels77),
    "disfl-qa": Task("bleu", read=_disfl, metrics=("exact_match",)),
    "nl2bash": Task("chrf", read=_nl2bash, metrics=("bleu",)),
    "e2e-nlg": Task("bleu", read=_e2e, metrics=("rougeL",)),
    "conversations": Task("chrf", metrics=("rougeL", "bleu")),
}
