"""Facts to sentences and back, in many domains (none about eating out, and no bookings).

A domain is a table of attributes; each attribute says how its value is made and how it reads as a
verb phrase ("costs £12"), as a modifier after a noun ("priced at £12") or as an adjective. The
realiser drops, orders and groups the attributes at random, so a sentence must say exactly what it
was given, with names nobody has seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pretraining_names import DAYS, Names
from pretraining_tasks import Pair, Source, record, serialise


@dataclass(frozen=True)
class Attribute:
    """One fact about a thing. ``values``: a maker's name on ``Names``, or "a/b/c" to choose from.

    Phrases hold ``{}`` for the value. With ``values="yes/no"`` verbs and modifiers are
    "phrase if yes/phrase if no" instead.
    """

    keys: str
    values: str
    verbs: str
    modifiers: str = ""
    adjective: bool = False


@dataclass(frozen=True)
class Domain:
    kinds: str
    namer: str
    attributes: list[Attribute] = field(default_factory=list)
    person: bool = False


def _a(
    keys: str, values: str, verbs: str, modifiers: str = "", adjective: bool = False
) -> Attribute:
    return Attribute(keys, values, verbs, modifiers, adjective)


_CITY = _a(
    "city/town/location",
    "place",
    "is in {}/is located in {}/can be found in {}/stands in {}",
    "in {}/located in {}/in the city of {}/based in {}",
)
_NEAR = _a(
    "near/close to/landmark",
    "brand",
    "is near {}/is close to {}/stands next to {}/is not far from {}",
    "near {}/close to {}/next to {}/by {}/near to {}",
)
_PART = _a(
    "part of town/district/zone",
    "north side/old town/harbour/riverside/city centre/village/station quarter/west end",
    "is in the {}/is found in the {}/lies in the {}",
    "in the {}/located in the {}/by the {}",
)
_PRICE = _a(
    "price/cost/ticket/fee",
    "price",
    "costs {}/has a price of {}/is priced at {}/charges {}/is sold for {}",
    "priced at {}/with a price of {}/for {}/costing {}",
)
_BAND = _a(
    "price range/price level/prices/cost level",
    "cheap/moderate/high/low/average/expensive",
    "has {} prices/is in the {} price range/offers {} prices",
    "with {} prices/in the {} price range/with a {} price range",
)
_SCORE = _a(
    "rating/review/user rating/score/stars",
    "1 out of 5/2 out of 5/3 out of 5/4 out of 5/5 out of 5/low/average/high/7 out of 10/9 out of "
    "10/poor/excellent",
    "has a {} rating/is rated {}/was rated {} by visitors/received a rating of {}/has a user "
    "score of {}/got a {} review",
    "with a rating of {}/rated {}/with a {} user rating/which has a {} score",
)
_DOGS = _a(
    "dogs allowed/dog friendly/dogs",
    "yes/no",
    "is dog friendly/is not dog friendly|allows dogs/does not allow dogs|welcomes dogs/does not "
    "welcome dogs",
    "where dogs are welcome/where dogs are not allowed|that is dog friendly/that is not dog "
    "friendly",
)
_KIDS = _a(
    "for children/child friendly/kids/kid friendly",
    "yes/no",
    "is child friendly/is not child friendly|is good for children/is not for children|welcomes "
    "kids/does not welcome kids|is kid friendly/is not kid friendly",
    "suited to children/not suited to children|that welcomes families/that is for adults|for the "
    "whole family/for adults only",
)
_OPEN = _a(
    "opening hours/opens/open from",
    "clock",
    "opens at {}/is open from {}/starts at {}",
    "open from {}/which opens at {}",
)
_PHONE = _a(
    "phone/telephone/contact number",
    "phone",
    "can be called on {}/has the phone number {}/has the number {}",
    "with the phone number {}/phone {}",
)
_SINCE = _a(
    "founded/year/since/opened",
    "date",
    "was founded on {}/opened in {}/dates from {}",
    "founded in {}/opened in {}",
)
_OWNER = _a(
    "owner/run by/manager",
    "person",
    "is run by {}/belongs to {}/is owned by {}/is managed by {}",
    "run by {}/owned by {}/which belongs to {}",
)
_STYLE = _a(
    "style/look/design",
    "modern/old/small/large/quiet/famous/new/lovely/traditional/busy",
    "is {}/has a {} look",
    "",
    True,
)
_ORIGIN = _a(
    "country/origin/style of goods",
    "Italian/French/Chinese/English/Indian/Japanese/Spanish/Irish/Greek/Dutch/Swedish/Russian",
    "sells {} goods/has {} things/provides {} products/offers {} goods",
    "with {} goods/selling {} things/providing {} wares",
    True,
)

DOMAINS: list[Domain] = [
    Domain(
        "shop/book shop/toy shop/flower shop/market stall/clothes shop/music shop",
        "brand",
        [
            _CITY,
            _NEAR,
            _PART,
            _BAND,
            _SCORE,
            _DOGS,
            _KIDS,
            _OPEN,
            _PHONE,
            _OWNER,
            _STYLE,
            _ORIGIN,
            _PRICE,
        ],
    ),
    Domain(
        "museum/gallery/theatre/library/gym/swimming pool/zoo/park/cinema",
        "brand",
        [_CITY, _NEAR, _PART, _BAND, _SCORE, _DOGS, _KIDS, _OPEN, _PRICE, _SINCE, _STYLE, _PHONE],
    ),
    Domain(
        "school/garage/hair salon/dance studio/farm/campsite/language school",
        "brand",
        [_CITY, _NEAR, _PART, _BAND, _SCORE, _KIDS, _OPEN, _PRICE, _SINCE, _OWNER, _STYLE, _ORIGIN],
    ),
    Domain(
        "book/novel/story/poem",
        "title",
        [
            _a(
                "author/writer/written by",
                "person",
                "was written by {}/is by {}",
                "by {}/written by {}/from the pen of {}",
            ),
            _a(
                "year/published/date",
                "date",
                "was published in {}/came out in {}",
                "published in {}/from {}",
            ),
            _a(
                "pages/length",
                "number",
                "has {} pages/is {} pages long",
                "of {} pages/with {} pages",
            ),
            _a(
                "genre/type/kind",
                "mystery/romance/history/adventure/science/travel/comedy",
                "is a {} book/belongs to the {} shelf",
                "",
                True,
            ),
            _a(
                "hero/main character",
                "person",
                "tells the story of {}/is about {}",
                "about {}/that tells of {}",
            ),
            _PRICE,
            _SCORE,
            _KIDS,
        ],
    ),
    Domain(
        "film/movie/play/series",
        "title",
        [
            _a(
                "director/directed by",
                "person",
                "was directed by {}/was made by {}",
                "by {}/directed by {}",
            ),
            _a(
                "star/lead actor/cast",
                "person",
                "stars {}/has {} in the main part",
                "starring {}/with {}",
            ),
            _a(
                "minutes/length/running time",
                "number",
                "lasts {} minutes/is {} minutes long",
                "of {} minutes/lasting {} minutes",
            ),
            _a(
                "genre/type",
                "comedy/drama/horror/war/family/crime/musical",
                "is a {} film",
                "",
                True,
            ),
            _a("set in/place", "place", "is set in {}/takes place in {}", "set in {}"),
            _SCORE,
            _KIDS,
            _SINCE,
        ],
    ),
    Domain(
        "train/bus/boat/coach/ferry/flight",
        "code",
        [
            _a(
                "from/departs from/origin",
                "place",
                "leaves from {}/starts in {}",
                "from {}/leaving {}",
            ),
            _a(
                "to/destination/goes to",
                "place",
                "goes to {}/runs to {}/travels to {}",
                "to {}/for {}",
            ),
            _a(
                "departure/leaves at/time",
                "clock",
                "leaves at {}/departs at {}",
                "leaving at {}/at {}",
            ),
            _a("arrival/arrives at", "clock", "arrives at {}/gets in at {}", "arriving at {}"),
            _a("platform/gate", "number", "leaves from gate {}", "from gate {}"),
            _PRICE,
            _DOGS,
            _a("day/runs on", "/".join(DAYS), "runs on {}/runs every {}", "on {}"),
        ],
    ),
    Domain(
        "teacher/doctor/painter/singer/writer/farmer/nurse/engineer/sailor/lawyer/cook/player",
        "person",
        [
            _a(
                "birthplace/born in/home town",
                "place",
                "was born in {}/comes from {}/is from {}",
                "from {}/born in {}",
            ),
            _a("birthday/born/birth date", "date", "was born on {}", "born on {}"),
            _a("lives in/city", "place", "lives in {}/has a house in {}", "living in {}"),
            _a(
                "employer/works for/company",
                "brand",
                "works for {}/has a job at {}",
                "working for {}/of {}",
            ),
            _a("spouse/married to", "person", "is married to {}", "married to {}"),
            _a("known for/work", "title", "is known for {}/became famous with {}", "known for {}"),
            _a(
                "likes/hobby",
                "music/tennis/chess/fishing/dancing/gardening/books",
                "likes {}/enjoys {}",
                "who likes {}",
            ),
            _PHONE,
            _a("nationality", "English/French/Irish/German/Spanish/Polish", "is {}", "", True),
        ],
        person=True,
    ),
    Domain(
        "phone/camera/lamp/bag/chair/watch/bicycle/car/radio/coat",
        "brand",
        [
            _a("maker/brand/made by", "brand", "is made by {}/comes from {}", "from {}/made by {}"),
            _a(
                "colour/color",
                "red/blue/green/black/white/yellow/brown/silver",
                "is {}/comes in {}",
                "in {}",
                True,
            ),
            _a("weight", "number", "weighs {} grams", "weighing {} grams"),
            _PRICE,
            _SCORE,
            _KIDS,
            _STYLE,
            _a(
                "model/code/item number",
                "code",
                "has the code {}/is model {}",
                "with the code {}/model {}",
            ),
        ],
    ),
    Domain(
        "football team/club/band/choir/orchestra/company/charity",
        "brand",
        [
            _CITY,
            _SINCE,
            _OWNER,
            _a(
                "leader/coach/captain/singer",
                "person",
                "is led by {}/has {} as its leader",
                "led by {}/with {} as leader",
            ),
            _a(
                "members/players/staff",
                "number",
                "has {} members/counts {} people",
                "with {} members/of {} people",
            ),
            _a("ground/home/stadium", "place", "plays at {}/has its home at {}", "of {}/at {}"),
            _SCORE,
            _PHONE,
            _NEAR,
        ],
    ),
    Domain(
        "city/town/village/river/mountain/island/lake",
        "place",
        [
            _a("country/state/region", "place", "is in {}/lies in {}/belongs to {}", "in {}/of {}"),
            _a(
                "population/people",
                "number",
                "has {} people/is home to {} people",
                "with {} people",
            ),
            _a("mayor/head", "person", "is led by {}/has {} as its mayor", "led by {}"),
            _NEAR,
            _STYLE,
            _SINCE,
            _a(
                "weather/climate",
                "sunny/rainy/cold/warm/windy/dry",
                "has {} weather/is often {}",
                "with {} weather",
                True,
            ),
        ],
    ),
    Domain(
        "dog/cat/horse/bird/rabbit/parrot/tiger",
        "person",
        [
            _a(
                "owner/belongs to", "person", "belongs to {}/lives with {}", "of {}/belonging to {}"
            ),
            _a("colour/coat", "black/white/brown/grey/golden/spotted", "is {}", "", True),
            _a(
                "age/years",
                "2 years/3 years/5 years/8 years/11 years",
                "is {} old",
                "who is {} old",
            ),
            _a("found in/home", "place", "lives in {}/comes from {}", "from {}"),
            _KIDS,
            _PRICE,
            _a("food/eats", "grass/fish/seeds/meat/apples", "eats {}/likes {}", "eating {}"),
        ],
    ),
    Domain(
        "job/post/course/lesson/concert/exhibition/match/meeting/tour",
        "title",
        [
            _a(
                "place/venue/city",
                "place",
                "takes place in {}/is held in {}/is in {}",
                "in {}/held in {}",
            ),
            _a("date/day", "date", "is on {}/takes place on {}", "on {}"),
            _OPEN,
            _PRICE,
            _KIDS,
            _SCORE,
            _NEAR,
            _a(
                "led by/host/speaker/contact",
                "person",
                "is led by {}/is given by {}",
                "led by {}/with {}",
            ),
            _a(
                "organiser/offered by",
                "brand",
                "is organised by {}/is offered by {}",
                "offered by {}/from {}",
            ),
        ],
    ),
]


@dataclass
class Fact:
    """An attribute with its value, and the phrases that fit the value."""

    key: str
    value: str
    verb: str
    modifier: str
    adjective: str


def _value(names: Names, attribute: Attribute) -> str:
    if "/" in attribute.values:
        return names.rng.choice(attribute.values.split("/"))
    maker: Callable[[], str] = getattr(names, attribute.values)
    return maker()


def make_fact(src: Source, attribute: Attribute) -> Fact:
    value = _value(src.names, attribute)
    key = src.rng.choice(attribute.keys.split("/"))
    if attribute.values == "yes/no":
        side = 0 if value == "yes" else 1
        verb = src.rng.choice(attribute.verbs.split("|")).split("/")[side]
        modifier = src.rng.choice(attribute.modifiers.split("|")).split("/")[side]
        return Fact(key, value, verb, modifier, "")
    verb = src.rng.choice(attribute.verbs.split("/")).replace("{}", value)
    modifier = src.rng.choice(attribute.modifiers.split("/")).replace("{}", value)
    return Fact(key, value, verb, modifier, value if attribute.adjective else "")


def article(phrase: str) -> str:
    return f"{'an' if phrase[:1].lower() in 'aeio8' else 'a'} {phrase}"


def enumerate_phrases(src: Source, phrases: list[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    joint = src.pick(" and ", " and ", ", and ")
    return ", ".join(phrases[:-1]) + joint + phrases[-1]


def _first_sentence(src: Source, name: str, kind: str, facts: list[Fact]) -> str:
    """Open with the name and, where given, what it is; every fact in ``facts`` is said."""
    adjectives = (
        [fact for fact in facts if fact.adjective and src.rng.random() < 0.8][:1] if kind else []
    )
    rest = [fact for fact in facts if fact not in adjectives]
    noun = " ".join([*(fact.adjective for fact in adjectives), kind])
    if not kind:
        return (
            f"{name} {enumerate_phrases(src, [fact.verb for fact in rest])}."
            if rest
            else f"This is {name}."
        )
    tails = [fact for fact in rest if fact.modifier]
    verbs = [fact.verb for fact in rest if not fact.modifier]
    cut = src.rng.randint(0, min(3, len(tails)))
    mods, verbs = (
        [fact.modifier for fact in tails[:cut]],
        [*verbs, *(fact.verb for fact in tails[cut:])],
    )
    style = src.rng.randrange(7)
    tail = "".join(f" {mod}" for mod in mods[:2]) + "".join(f", {mod}" for mod in mods[2:])
    said = f" and {enumerate_phrases(src, verbs)}" if verbs else ""
    if style <= 1:
        return f"{name} is {article(noun)}{tail}{said}."
    if style == 2:
        which = f" {src.pick('that', 'which')} {enumerate_phrases(src, verbs)}" if verbs else ""
        return f"{name} is {article(noun)}{which}{tail}."
    if style == 3:
        also = f". It {enumerate_phrases(src, verbs)}" if verbs else ""
        return f"There is {article(noun)}{tail} {src.pick('called', 'named')} {name}{also}."
    if style == 4 and mods:
        front = mods[0][:1].upper() + mods[0][1:]
        return f"{front}, {name} is {article(noun)}{''.join(f' {mod}' for mod in mods[1:])}{said}."
    if style == 5 and verbs:
        return f"{name}, {article(noun)}{tail}, {enumerate_phrases(src, verbs)}."
    if style == 6 and verbs:
        return f"The {noun} {name}{tail} {enumerate_phrases(src, verbs)}."
    return f"{name} is {article(noun)}{tail}{said}."


def realise(src: Source, domain: Domain, name: str, kind: str, facts: list[Fact]) -> str:
    """Sentences that say the name, the kind (if any) and all facts."""
    facts = src.rng.sample(facts, len(facts)) if src.rng.random() < 0.35 else list(facts)
    cut = src.rng.randint(1, 4) if facts else 0
    if not kind and domain.person:
        cut = max(cut, 1)
    text = _first_sentence(src, name, kind, facts[:cut])
    facts = facts[cut:]
    while facts:
        size = src.rng.randint(1, 3)
        said = enumerate_phrases(src, [fact.verb for fact in facts[:size]])
        who = src.pick("It", "It", name, "It also") if not domain.person else name
        text += f" {who} {said}."
        facts = facts[size:]
    return re.sub(r" +", " ", text)


def styled_key(style: int, key: str) -> str:
    """One spelling for all keys of a record: plain, camelCase, snake_case, Capitalised."""
    words = key.split()
    if style == 1:
        return words[0] + "".join(word.capitalize() for word in words[1:])
    if style == 2:
        return "_".join(words)
    return key.capitalize() if style == 3 else key


def thing(src: Source, most: int = 7) -> tuple[Domain, str, str, list[Fact], list[tuple[str, str]]]:
    """A random thing: its domain, name, kind ("" if not given), facts, and fields as given."""
    domain = src.rng.choice(DOMAINS)
    name: str = getattr(src.names, domain.namer)()
    kind = src.rng.choice(domain.kinds.split("/")) if src.rng.random() < 0.8 else ""
    most = min(most, max(2, src.longest // 6), len(domain.attributes))
    chosen = src.rng.sample(domain.attributes, src.rng.randint(1, most))
    facts = [make_fact(src, attribute) for attribute in chosen]
    fields = [("name", name)]
    if kind:
        fields.append((src.pick("type", "kind", "category", "what"), kind))
    keys: dict[str, str] = dict(fields)
    for fact in facts:
        if fact.key in keys:
            fact.key = f"{fact.key} 2"
        keys[fact.key] = fact.value
    style = src.rng.randrange(4)
    fields = [(styled_key(style, key), value) for key, value in keys.items()]
    if src.rng.random() < 0.3:
        src.rng.shuffle(fields)
    return domain, name, kind, facts, fields


def describe(src: Source) -> Pair:
    """Fields to sentences."""
    domain, name, kind, facts, fields = thing(src)
    ask = src.pick(
        "", "", "", "Describe: ", "Data to text: ", "Write a sentence: ", "Make a sentence from: "
    )
    return ask + serialise(src, fields), realise(src, domain, name, kind, facts)


def describe_any(src: Source) -> Pair:
    """Fields with arbitrary keys, said plainly."""
    fields = record(src, 1, 4)
    name = src.names.any_name()
    said = [
        src.pick(
            f"the {key} is {value}", f"its {key} is {value}", f"the {key} of {name} is {value}"
        )
        for key, value in fields
    ]
    text = f"For {name}, {enumerate_phrases(src, said)}."
    return f"Describe: {serialise(src, [('name', name), *fields])}", text


def extract(src: Source) -> Pair:
    """Sentences to some of their fields, in the asked order; ``none`` where one is not said."""
    domain, name, kind, facts, fields = thing(src, 5)
    text = realise(src, domain, name, kind, facts)
    wanted = src.rng.sample(fields, src.rng.randint(1, min(4, len(fields))))
    if src.rng.random() < 0.3:
        wanted = [pair for pair in wanted if pair[0].lower() != "name"]
        wanted.insert(0, ("name", name))
    frame = src.pick("Find {k}: {t}", "{t} What are {k}?", "Fill {k} from: {t}")
    answer = " | ".join(f"{key}: {value}" for key, value in wanted)
    return frame.format(k=", ".join(key for key, _ in wanted), t=text), answer


def ask_fact(src: Source) -> Pair:
    """One field asked from sentences."""
    domain, name, kind, facts, _ = thing(src, 5)
    fact = src.rng.choice(facts)
    text = realise(src, domain, name, kind, facts)
    frame = src.pick(
        "What is the {k}? {t}", "{t} What is the {k}?", "{k}: {t}", "Get the {k} from: {t}"
    )
    return frame.format(k=fact.key, t=text), fact.value


FACT_TASKS = {task.__name__: task for task in (describe, describe_any, extract, ask_fact)}
