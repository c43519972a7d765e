"""Informal notes to fields: small ads, lost property, introductions (no bookings of any kind)."""

from __future__ import annotations

from pretraining_names import DAYS, NUMBER_WORDS
from pretraining_tasks import Pair, Source

# Slots: p person, l place, t phone, m price, e email, k thing, n count as said, d day as said.
_NOTES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("selling my old {k}, {m} ono, ring {p} on {t}", ("item", "price", "seller", "phone")),
    ("for sale: {n} {k}s, {m} each. {p}, {t}", ("count", "item", "price", "seller", "phone")),
    (
        "hi all, {p} here, i lost my {k} near {l} on {d}. pls call {t}",
        ("name", "item", "place", "day", "phone"),
    ),
    (
        "found a {k} at {l} last {d}! ask for {p} or ring {t}",
        ("item", "place", "day", "name", "phone"),
    ),
    ("hello i'm {p} from {l}, new here, mail me: {e}", ("name", "city", "email")),
    ("hey its {p}, im in {l} till {d}, my new number is {t}", ("name", "city", "day", "phone")),
    (
        "wanted: {n} {k}s for under {m}, contact {p} ({e})",
        ("count", "item", "price", "name", "email"),
    ),
    ("anyone seen {p}? was in {l} on {d}. thx, {t}", ("name", "place", "day", "phone")),
    ("{p} owes me {m} for the {k}, says hell pay on {d}", ("name", "price", "item", "day")),
    ("yo {p} pls bring {n} {k}s to {l} on {d} ok?", ("name", "count", "item", "place", "day")),
    ("got {n} {k}s from {p} in {l}, paid {m}", ("count", "item", "name", "city", "price")),
    (
        "the {k} goes to {p}, {l}. any trouble call {t} or write {e}",
        ("item", "name", "address", "phone", "email"),
    ),
)
_THINGS = (
    "bike chair lamp table cat coat guitar phone bag book clock radio boat hat ring ladder tent "
    "piano".split()
)


def _slots(src: Source) -> dict[str, tuple[str, str]]:
    """For each slot the words of the note and the value of the field."""
    names, rng = src.names, src.rng
    count, day = rng.randint(1, 20), rng.choice(DAYS)
    said_count = NUMBER_WORDS[count - 1] if rng.random() < 0.6 else str(count)
    same = {
        "p": names.person(),
        "l": names.place(),
        "t": names.phone(),
        "m": names.price(),
        "e": names.email(),
        "k": rng.choice(_THINGS),
    }
    slots = {slot: (value, value) for slot, value in same.items()}
    slots["n"] = (said_count, str(count))
    slots["d"] = (day.lower() if rng.random() < 0.6 else day, day)
    return slots


_FIELD_SLOT = {
    "item": "k",
    "price": "m",
    "seller": "p",
    "name": "p",
    "phone": "t",
    "count": "n",
    "place": "l",
    "city": "l",
    "address": "l",
    "day": "d",
    "email": "e",
}


def note_fields(src: Source) -> Pair:
    """All or some fields of a note, asked by name, as ``key: value | key: value``."""
    note, keys = src.rng.choice(_NOTES)
    slots = _slots(src)
    text = note.format(**{slot: said for slot, (said, _) in slots.items()})
    wanted = (
        list(keys)
        if src.rng.random() < 0.5
        else src.rng.sample(keys, src.rng.randint(1, len(keys)))
    )
    answer = " | ".join(f"{key}: {slots[_FIELD_SLOT[key]][1]}" for key in wanted)
    frame = src.pick("Find {k}: {t}", "{t} -- {k}", "Fill {k} from: {t}", "Note: {t} Fields: {k}")
    return frame.format(k=", ".join(wanted), t=text), answer


def note_question(src: Source) -> Pair:
    """One field of a note."""
    note, keys = src.rng.choice(_NOTES)
    slots, key = _slots(src), src.rng.choice(keys)
    text = note.format(**{slot: said for slot, (said, _) in slots.items()})
    frame = src.pick("What is the {k}? {t}", "{t} What is the {k}?", "{k}: {t}")
    return frame.format(k=key, t=text), slots[_FIELD_SLOT[key]][1]


_CLAUSES: dict[str, tuple[str, ...]] = {
    "name": (
        "ask for {}",
        "{} speaking",
        "from {}",
        "i'm {}",
        "{} sent this",
        "{} wrote it down",
        "owner: {}",
        "yours, {}",
    ),
    "count": (
        "{} left",
        "only {} of them",
        "{} boxes",
        "{} players short",
        "there were {}",
        "bring {}",
        "{} altogether",
        "lost {} already",
        "{} in the van",
        "just {} children",
    ),
    "day": (
        "by {}",
        "since {}",
        "not before {}",
        "every {}",
        "{} is best",
        "on {}",
        "back {}",
        "it was {}",
        "until {}",
    ),
    "time": (
        "at {}",
        "from {}",
        "after {}",
        "before {}",
        "{} sharp",
        "till {}",
        "gone by {}",
        "the bus is {}",
    ),
    "phone": (
        "text {}",
        "ring {}",
        "{} is my mobile",
        "tel. {}",
        "try {}",
        "number: {}",
        "or dial {}",
    ),
    "place": ("in {}", "outside {}", "near {}", "the road to {}", "at {} station"),
    "price": ("{} each", "for {}", "cost me {}", "worth {}"),
    "item": ("one {}", "my {}", "the old {}", "that {} again"),
}
_FILLER = (
    "cant wait",
    "what a day",
    "its raining again",
    "no time to chat",
    "not bad at all",
    "mum says hello",
    "lol",
    "who knew",
    "dont ask me why",
    "so tired",
    "the dog is fine",
    "more soon",
)
_FIELD_NAMES = {
    "count": ("count", "number", "how many", "amount", "boxes"),
    "time": ("time", "hour", "when"),
    "name": ("name", "who", "person"),
    "day": ("day", "weekday"),
    "phone": ("phone", "tel"),
    "place": ("place", "where"),
    "price": ("price", "money"),
    "item": ("item", "what"),
}


def said_time(src: Source) -> tuple[str, str]:
    """A time as people write it, and in 24 hours; without am or pm it is after noon."""
    rng = src.rng
    hour, minute = rng.randint(1, 11), rng.choice((0, 0, 15, 30, 45, rng.randint(1, 59)))
    morning = rng.random() < 0.15
    exact = f"{hour + (0 if morning else 12):02d}:{minute:02d}"
    roll = rng.random()
    if roll < 0.2:
        return exact, exact
    words = rng.random() < 0.2
    this, following = (NUMBER_WORDS[n - 1] if words else str(n) for n in (hour, hour % 12 + 1))
    halves = {
        15: f"quarter past {this}",
        30: f"half past {this}",
        45: f"quarter to {following}",
        0: f"{this} o'clock",
    }
    if roll < 0.6 and minute in halves and not (minute == 45 and hour == 11):
        return halves[minute] + (src.pick(" in the morning", " am") if morning else ""), exact
    digits = f"{hour}{src.pick('.', ':')}{minute:02d}" if minute else str(hour)
    return f"{digits}{src.pick('', ' ')}{'am' if morning else 'pm'}", exact


def said_day(src: Source) -> tuple[str, str]:
    day = src.rng.choice(DAYS)
    short = day[: src.rng.choice((3, 3, 4 if day[0] == "T" else 3))]
    return src.pick(day, day.lower(), short, short.lower()), day


def said_count(src: Source) -> tuple[str, str]:
    count = src.rng.randint(1, 12)
    return (NUMBER_WORDS[count - 1] if src.rng.random() < 0.6 else str(count)), str(count)


def _said(src: Source, key: str) -> tuple[str, str]:
    special = {"time": said_time, "day": said_day, "count": said_count}
    if key in special:
        return special[key](src)
    names = src.names
    plain = {"name": names.person, "phone": names.phone, "place": names.place, "price": names.price}
    value = plain[key]() if key in plain else src.rng.choice(_THINGS)
    return value, value


def jumble(src: Source) -> Pair:
    """Clauses in any order with chatter between them, to the fields asked for (``none``: not
    said).
    """
    rng = src.rng
    keys = rng.sample(list(_CLAUSES), rng.randint(1, 5))
    absent = rng.random() < 0.2 and len(keys) > 1
    clauses, fields = rng.sample(_FILLER, rng.randint(0, 2)), []
    for index, key in enumerate(keys):
        said, value = _said(src, key)
        if absent and index == 0:
            value = "none"
        else:
            clauses.append(rng.choice(_CLAUSES[key]).format(said))
        fields.append((rng.choice(_FIELD_NAMES[key]), value))
    rng.shuffle(clauses)
    rng.shuffle(fields)
    text = "".join(clause + src.pick(", ", " ", ". ", "; ", " ... ") for clause in clauses).rstrip(
        " ,;"
    )
    answer = " | ".join(f"{key}: {value}" for key, value in fields)
    frame = src.pick("Find {k}: {t}", "{t} -- {k}", "Fill {k} from: {t}", "Note: {t} Fields: {k}")
    return frame.format(k=", ".join(key for key, _ in fields), t=text), answer


def plain_words(src: Source) -> Pair:
    """Times, days and counts written out the one way a table wants them."""
    key, ask = src.rng.choice(
        (("time", "24 hour clock"), ("day", "Full name of the day"), ("count", "In digits"))
    )
    said = [_said(src, key) for _ in range(src.rng.randint(1, 4))]
    return f"{ask}: {', '.join(one for one, _ in said)}", ", ".join(two for _, two in said)


NOTE_TASKS = {task.__name__: task for task in (note_fields, note_question, jumble, plain_words)}
