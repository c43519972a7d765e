"""Which tasks are drawn how often, how lengths grow, and the probe's held-out questions."""

from __future__ import annotations

import random
from collections.abc import Callable

from pretraining_facts import FACT_TASKS, realise, thing
from pretraining_names import Names
from pretraining_notes import NOTE_TASKS
from pretraining_tasks import TASKS, Pair, Source, serialise
from pretraining_text import Books

WEIGHTS = {
    "echo": 6,
    "lookup": 12,
    "key_of": 3,
    "subset": 4,
    "reserialise": 3,
    "nth": 4,
    "after": 3,
    "order": 3,
    "join": 2,
    "fill": 5,
    "edit": 4,
    "case": 3,
    "first_last": 2,
    "normalise": 3,
    "question": 9,
    "tidy": 2,
    "denoise": 14,
    "proceed": 3,
    "describe": 22,
    "describe_any": 2,
    "extract": 7,
    "ask_fact": 5,
    "note_fields": 5,
    "note_question": 2,
}
# From step 3,000 on: saying each fact of a list once is what is learned last.
LATER = {**WEIGHTS, "describe": 46, "denoise": 18}
# From step 7,000 on: also times, days and counts as people write them.
LAST = {**LATER, "jumble": 30, "plain_words": 12}
# The first steps: nothing but copying, on short texts.
COPYING = {"echo": 6, "lookup": 6, "nth": 2, "join": 2, "fill": 3, "question": 4, "denoise": 3}
STAGES = ((0, COPYING), (400, WEIGHTS), (3000, LATER), (7000, LAST))


def make_source(books: Books, rng: random.Random, held_out: bool = False) -> Source:
    names = Names(rng, books.capitals, held_out)
    return Source(rng, names, books.words, books.sentences, books.passages)


class Mixture:
    """An endless stream of (task, prompt, answer)."""

    def __init__(self, source: Source, kind: str) -> None:
        self.source = source
        self.kind = kind
        self._tasks: dict[str, Callable[[Source], Pair]] = {**TASKS, **FACT_TASKS, **NOTE_TASKS}
        self.weights = WEIGHTS

    def grow(self, step: int) -> None:
        """Longer texts as training goes on; which tasks are drawn follows ``STAGES``."""
        if self.kind == "curriculum":
            self.source.longest = min(40, 12 + step // 50)
            self.weights = next(weights for start, weights in reversed(STAGES) if step >= start)

    def draw(self) -> tuple[str, str, str]:
        names = list(self.weights)
        task = self.source.rng.choices(names, [self.weights[name] for name in names])[0]
        prompt, answer = self._tasks[task](self.source)
        return task, prompt, answer


def probe_sets(books: Books, size: int) -> dict[str, list[tuple[str, str, list[str]]]]:
    """Rows of (prompt, answer, values the answer must hold; none: word for word)."""
    src = make_source(books, random.Random(987_654_321), held_out=True)
    names = src.names
    sets: dict[str, list[tuple[str, str, list[str]]]] = {
        "echo": [],
        "lookup": [],
        "question": [],
        "describe": [],
        "denoise": [],
    }
    for _ in range(size):
        text = " ".join(names.any_name() for _ in range(3))
        sets["echo"].append((f"repeat: {text}", text, []))
        keys = src.rng.sample(["name", "city", "driver", "shop", "teacher", "owner", "street"], 5)
        fields = [(key, names.any_name()) for key in keys]
        key, value = src.rng.choice(fields)
        sets["lookup"].append((f"What is the {key}? {serialise(src, fields)}", value, []))
        sets["question"].append((*TASKS["question"](src), []))
        domain, name, kind, facts, given = thing(src)
        held = [
            value for _, value in given if any(char.isupper() or char.isdigit() for char in value)
        ]
        sets["describe"].append(
            (serialise(src, given), realise(src, domain, name, kind, facts), held)
        )
        sets["denoise"].append((*TASKS["denoise"](src), []))
    return sets
