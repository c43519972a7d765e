"""The text-handling half of the pretraining mixture: copying, look-up, editing, span corruption.

Every task is a function ``(Source) -> (prompt, answer)``. All draw from one seeded stream, so a
seed names an endless, reproducible data set. Facts to sentences are in ``pretraining_facts.py``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pretraining_names import NUMBER_WORDS, Names

Pair = tuple[str, str]


@dataclass
class Source:
    """What a task may draw on: the random stream, the value maker, book words and sentences.

    ``longest`` caps the length of lists and of book passages (in words): small at first, so that
    early training takes many cheap steps.
    """

    rng: random.Random
    names: Names
    words: Sequence[str]
    sentences: Sequence[str]
    passages: Sequence[str]
    longest: int = 40

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)

    def items(self, low: int, high: int) -> list[str]:
        """Distinct values for a list: all of one kind, or mixed."""
        names, roll = self.names, self.rng.random()
        kinds: list[Callable[[], str]] = [names.value]
        if roll < 0.3:
            kinds = [names.any_name]
        elif roll < 0.45:
            kinds = [names.person]
        elif roll < 0.65:
            kinds = [lambda: self.rng.choice(self.words)]
        count = self.rng.randint(low, max(low, min(high, self.longest // 4)))
        found: dict[str, None] = {}
        while len(found) < count:
            found[self.rng.choice(kinds)()] = None
        return list(found)

    def sentence(self) -> str:
        while True:
            text = self.rng.choice(self.sentences)
            if len(text.split()) <= self.longest:
                return text

    def text(self) -> str:
        """A short stretch of text full of things to copy."""
        roll = self.rng.random()
        if roll < 0.45:
            return " ".join(self.items(1, 8))
        if roll < 0.6:
            return ", ".join(self.items(2, 6))
        if roll < 0.8:
            return plant(self)[0]
        return self.sentence()


_KEYS = (
    "name title author city price time date phone email code colour size type owner address month "
    "team player coach driver number seat room floor gate route line brand model weight height age "
    "country street shop school teacher subject grade day start end speaker topic language area "
    "rating score status job company contact customer guest member doctor pet animal food drink"
).split()


def record(src: Source, low: int = 2, high: int = 7) -> list[tuple[str, str]]:
    """Keys with values; keys are common field names or, sometimes, arbitrary book words."""
    values = src.items(low, high)
    pool: Sequence[str] = _KEYS if src.rng.random() < 0.7 else src.words
    keys: dict[str, None] = {}
    while len(keys) < len(values):
        keys[src.rng.choice(pool)] = None
    return list(zip(keys, values, strict=True))


def serialise(src: Source, fields: Sequence[tuple[str, str]]) -> str:
    """One of many ways to write a record down."""
    style = src.rng.randrange(9)
    if style <= 2:
        return ", ".join(f"{key}[{value}]" for key, value in fields)
    if style == 3:
        return " | ".join(f"{key}: {value}" for key, value in fields)
    if style == 4:
        return "; ".join(f"{key}={value}" for key, value in fields)
    if style == 5:
        return "[" + ", ".join(f'"{key}": "{value}"' for key, value in fields) + "]"
    if style == 6:
        return " ; ".join(f"{key} = {value}" for key, value in fields)
    if style == 7:
        return " ".join(f"({key}) {value}" for key, value in fields)
    return src.pick(", ", ". ", " ", " / ").join(f"{key}: {value}" for key, value in fields)


_FRAMES = (
    "{} went to see {}.",
    "Yesterday {} met {} at {}.",
    "{} lives in {}.",
    "I am {} and I like {}.",
    "My name is {} and my number is {}.",
    "please send it to {} by {}",
    "{} was born in {} on {}.",
    "We saw {} near {}, and {} was there too.",
    "The letter from {} to {} was lost.",
    "{} paid {} for it.",
    "hi, {} here, call me on {}",
    '"{}" was written by {} in {}.',
    '{} said to {}: "meet me at {}".',
    "Nobody but {} knew where {} was.",
    "{} is older than {}.",
    "The road from {} to {} was closed at {}.",
    "{} works for {} as a {}.",
    "it costs {} at {}",
    "{} bought {} from {} last week.",
    "{}, {} and {} were late.",
    "{} left {} at {}.",
    "Tell {} that {} is waiting with {}.",
    "the code is {} and the name is {} ok",
    "{} won.",
)


def plant(src: Source) -> tuple[str, list[str]]:
    """A sentence with never-seen values in it, and those values in order."""
    frame = src.rng.choice(_FRAMES)
    blanks = frame.count("{}")
    makers = [src.names.any_name, src.names.person, src.names.value]
    values = [src.rng.choice(makers)() for _ in range(blanks)]
    text = frame.format(*values)
    if src.rng.random() < 0.3:
        text = f"{src.sentence()} {text}" if src.rng.random() < 0.5 else f"{text} {src.sentence()}"
    return text, values


# ---------------------------------------------------------------------------------- the tasks


def echo(src: Source) -> Pair:
    text = src.text()
    frame = src.pick(
        "repeat: {}",
        "Copy this text: {}",
        "Say it again: {}",
        "echo: {}",
        "{} Repeat the text.",
        "Write the same text: {}",
        "Repeat after me: {}",
    )
    return frame.format(text), text


def lookup(src: Source) -> Pair:
    fields = record(src)
    key, value = src.rng.choice(fields)
    body = serialise(src, fields)
    frame = src.pick(
        "What is the {k}? {b}",
        "{b} What is the {k}?",
        "Find the {k}: {b}",
        "{k}? {b}",
        "get {k} from: {b}",
        "{b} -- {k}:",
        "Give me the {k} in this list: {b}",
    )
    return frame.format(k=key, b=body), value


def key_of(src: Source) -> Pair:
    fields = record(src)
    key, value = src.rng.choice(fields)
    frame = src.pick("Which field is {v}? {b}", "{b} Which key has the value {v}?")
    return frame.format(v=value, b=serialise(src, fields)), key


def subset(src: Source) -> Pair:
    """Keep some fields of a record, in the asked order, in a fixed output style."""
    fields = record(src, 3, 7)
    kept = src.rng.sample(fields, src.rng.randint(1, min(3, len(fields))))
    asked = ", ".join(key for key, _ in kept)
    frame = src.pick("Keep only {k}: {b}", "Fields {k} of: {b}", "{b} Write down {k}.")
    answer = " | ".join(f"{key}: {value}" for key, value in kept)
    return frame.format(k=asked, b=serialise(src, fields)), answer


def reserialise(src: Source) -> Pair:
    fields = record(src, 2, 5)
    pairs = src.rng.choice(
        [
            ("lines with colons", " | ", "{}: {}"),
            ("brackets", ", ", "{}[{}]"),
            ("equals signs", "; ", "{}={}"),
        ]
    )
    name, joint, form = pairs
    answer = joint.join(form.format(key, value) for key, value in fields)
    return f"Rewrite with {name}: {serialise(src, fields)}", answer


_ORDINALS = "first second third fourth fifth sixth seventh eighth".split()


def nth(src: Source) -> Pair:
    items = src.items(2, 7)
    joint = src.pick(", ", " | ", "; ", " / ")
    if src.rng.random() < 0.25:
        return f"What is the last item? {joint.join(items)}", items[-1]
    place = src.rng.randrange(len(items))
    frame = src.pick("What is the {} item? {}", "{} of: {}", "Take the {} one: {}")
    return frame.format(_ORDINALS[place], joint.join(items)), items[place]


def after(src: Source) -> Pair:
    items = src.items(3, 8)
    place = src.rng.randrange(1, len(items))
    if src.rng.random() < 0.5:
        return f"What comes after {items[place - 1]}? {', '.join(items)}", items[place]
    return f"What comes before {items[place]}? {', '.join(items)}", items[place - 1]


def order(src: Source) -> Pair:
    items = src.items(2, 5)
    joint = src.pick(", ", " | ", "; ")
    if src.rng.random() < 0.6:
        return f"Reverse the order: {joint.join(items)}", joint.join(reversed(items))
    words = src.rng.sample(list(src.words), min(5, len(items)))
    return f"Sort by the alphabet: {' '.join(words)}", " ".join(sorted(words))


def join(src: Source) -> Pair:
    one, two = src.items(2, 2)[:2]
    frame = src.pick("Join with '{j}': {a} ; {b}", "Put '{j}' between: {a} ; {b}")
    joint = src.pick("and", "or", "from", "to", "with", "of", "near", "by")
    return frame.format(j=joint, a=one, b=two), f"{one} {joint} {two}"


def fill(src: Source) -> Pair:
    """Fill numbered or named blanks of a template."""
    frame = src.rng.choice(_FRAMES)
    values = [src.names.value() for _ in range(frame.count("{}"))]
    keys = src.rng.sample(_KEYS, len(values))
    template = frame.format(*(f"[{key}]" for key in keys))
    fields = list(zip(keys, values, strict=True))
    src.rng.shuffle(fields)
    return f"Fill in: {template} {serialise(src, fields)}", frame.format(*values)


def edit(src: Source) -> Pair:
    """Delete, replace or insert one word of a text."""
    words = src.text().split()
    place = src.rng.randrange(len(words))
    old = words[place]
    roll = src.rng.random()
    if roll < 0.3 and words.count(old) == 1 and len(words) > 1:
        rest = " ".join(words[:place] + words[place + 1 :])
        return f"Delete the word '{old}': {' '.join(words)}", rest
    new = src.names.any_name() if roll < 0.7 else src.rng.choice(src.words)
    changed = " ".join(new if word == old else word for word in words)
    frame = src.pick(
        "Replace '{o}' by '{n}': {t}", "Change {o} to {n}: {t}", "{t} Use {n} for {o}."
    )
    return frame.format(o=old, n=new, t=" ".join(words)), changed


def case(src: Source) -> Pair:
    words = src.text().split()[:5]
    text = " ".join(words)
    roll = src.rng.random()
    if roll < 0.35:
        return f"{src.pick('Lower case', 'Write in small letters')}: {text}", text.lower()
    if roll < 0.75:
        titled = " ".join(word[:1].upper() + word[1:] for word in words)
        return f"{src.pick('Title case', 'Capitalise each word')}: {text.lower()}", titled.title()
    return f"Upper case: {' '.join(words[:2])}", " ".join(words[:2]).upper()


def first_last(src: Source) -> Pair:
    words = src.text().split()
    if src.rng.random() < 0.5:
        return f"First word of: {' '.join(words)}", words[0]
    return f"Last word of: {' '.join(words)}", words[-1]


def normalise(src: Source) -> Pair:
    """Number words to digits, twelve-hour clock to twenty-four-hour clock, inside a phrase."""
    rng, thing = src.rng, src.rng.choice(src.words)
    if rng.random() < 0.4:
        value = rng.randint(1, 20)
        one, two = f"{NUMBER_WORDS[value - 1]} {thing}", f"{value} {thing}"
        return (f"Use digits: {one}", two) if rng.random() < 0.7 else (f"Use words: {two}", one)
    hour, minute, pm = rng.randint(1, 11), rng.choice([0, 0, 15, 30, 45]), rng.random() < 0.6
    half = "pm" if pm else "am"
    said = f"{hour}{src.pick(':', '.')}{minute:02d}" if minute else str(hour)
    text = f"{said}{src.pick('', ' ')}{half}"
    answer = f"{hour + 12 * pm:02d}:{minute:02d}"
    return f"{src.pick('24 hour clock', 'Write the time in 24 hours')}: {text}", answer


_ASKED: tuple[tuple[str, str, tuple[tuple[str, int], ...]], ...] = (
    (
        "{} went to {} on {}.",
        "ppd",
        (("Who went to {1}?", 0), ("Where did {0} go?", 1), ("When?", 2)),
    ),
    (
        "{} bought {} for {}.",
        "pbm",
        (("Who bought {1}?", 0), ("What did {0} buy?", 1), ("How much did {0} pay?", 2)),
    ),
    (
        "{} was built by {} in {}.",
        "bpl",
        (("Who built {0}?", 1), ("What was built?", 0), ("Where is it?", 2)),
    ),
    (
        "{} works as a driver in {}, and you can call {}.",
        "plt",
        (("Who is the driver?", 0), ("Where?", 1), ("What is the phone number?", 2)),
    ),
    (
        "hello, this is {} from {}, I will arrive at {}",
        "plc",
        (("What is the name?", 0), ("What place?", 1), ("What time?", 2)),
    ),
    (
        "{} and {} met at {}.",
        "ppl",
        (("Who did {0} meet?", 1), ("Who met {1}?", 0), ("Where did they meet?", 2)),
    ),
    (
        "The train to {} leaves {} at {}.",
        "llc",
        (("Where does it go?", 0), ("Where does it leave from?", 1), ("When does it leave?", 2)),
    ),
    (
        '"{}" is a novel by {}, printed in {}.',
        "bpl",
        (("Who wrote it?", 1), ("What is the title?", 0), ("Where was it printed?", 2)),
    ),
    (
        "{} gave {} to {}.",
        "pbp",
        (("Who gave {1} to {2}?", 0), ("What did {0} give?", 1), ("Who got {1}?", 2)),
    ),
    (
        "Our new address is {}, ask for {}, phone {}.",
        "lpt",
        (("What is the address?", 0), ("Who should I ask for?", 1), ("Which number?", 2)),
    ),
    (
        "{} sent {} a letter about {}.",
        "ppb",
        (("Who sent the letter?", 0), ("Who received it?", 1), ("What was it about?", 2)),
    ),
    (
        "my cat is called {}, she is from {} and cost {}",
        "plm",
        (("What is the name of the cat?", 0), ("Where is she from?", 1), ("How much?", 2)),
    ),
)


def question(src: Source) -> Pair:
    """Answer who, where, when, how much from one sentence among others."""
    names = src.names
    makers = {
        "p": names.person,
        "l": names.place,
        "b": names.brand,
        "d": names.date,
        "m": names.price,
        "c": names.clock,
        "t": names.phone,
    }
    frame, kinds, asked = src.rng.choice(_ASKED)
    values = [makers[kind]() for kind in kinds]
    ask, place = src.rng.choice(asked)
    text, ask = frame.format(*values), ask.format(*values)
    roll = src.rng.random()
    if roll < 0.2 and src.longest > 20:
        text = f"{plant(src)[0]} {text}" if roll < 0.1 else f"{text} {plant(src)[0]}"
    return (f"{ask} {text}" if src.rng.random() < 0.5 else f"{text} {ask}"), values[place]


def tidy(src: Source) -> Pair:
    """Leave out hesitations, or put a lower-case scribble right."""
    words = src.text().split()
    noisy: list[str] = []
    for word in words:
        if src.rng.random() < 0.2:
            noisy.append(src.pick("er,", "um", "well,", "uh", "you know,", "I mean", "like,"))
        noisy.append(word)
    return f"{src.pick('Clean up', 'Without hesitation')}: {' '.join(noisy)}", " ".join(words)


def denoise(src: Source) -> Pair:
    """T5's own objective: 15 % of the words in spans of mean length 3 give way to sentinels."""
    words = src.rng.choice(src.passages).split()
    size = min(len(words), src.rng.randint(max(6, src.longest // 2), max(12, src.longest)))
    start = src.rng.randint(0, len(words) - size)
    words = words[start : start + size]
    spans = max(1, round(len(words) * 0.15 / 3))
    starts = sorted(src.rng.sample(range(0, len(words), 6), min(spans, (len(words) + 5) // 6)))
    source: list[str] = []
    target: list[str] = []
    cursor = 0
    for index, begin in enumerate(starts):
        end = min(len(words), begin + src.rng.randint(1, 5))
        source += [*words[cursor:begin], f"<extra_id_{index}>"]
        target += [f"<extra_id_{index}>", *words[begin:end]]
        cursor = end
    target.append(f"<extra_id_{len(starts)}>")
    return " ".join(source + words[cursor:]), " ".join(target)


def proceed(src: Source) -> Pair:
    words = src.sentence().split()
    cut = len(words) // 2 + 1
    return f"Continue: {' '.join(words[:cut])}", " ".join(words[cut:]) or "."


TASKS: dict[str, Callable[[Source], Pair]] = {
    task.__name__: task
    for task in (
        echo,
        lookup,
        key_of,
        subset,
        reserialise,
        nth,
        after,
        order,
        join,
        fill,
        edit,
        case,
        first_last,
        normalise,
        question,
        tidy,
        denoise,
        proceed,
    )
}
