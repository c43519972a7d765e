"""Made-up values for the pretraining tasks: names that never repeat, prices, times, phone numbers.

Copying is only learned when memorising cannot help, so nearly every value here is built from
syllables or from random pairs of words. A fixed share of all names is withheld from training
(see ``is_held_out``): the probe uses only those, and so measures names no step has ever seen.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence

_ONSETS = (
    "b c d f g h j k l m n p r s t v w z br cr dr fr gr pr tr bl cl fl gl pl sl st sk sp sw sn sm "
    "th sh ch wh qu str thr kn y"
).split()
_NUCLEI = "a e i o u a e i o u ai ea ee ie oa oo ou ia io ay ey".split()
_ACCENTED = "á à â ä ã å é è ê ë í ï ó ô ö ø ú ü ñ ç".split()
_CODAS = (
    "b d g k l m n p r s t x n r l s n r ck ll nd ng nk nt rd rk rl rm rn rt sh ss st th tt lm ld "
    "lk mp ft w ne re le de te ve se ge"
).split()
_FIRST = (
    "Anna Tom Mary John Lucy James Clara Peter Rosa Henry Emma Jack Alice Paul Maria George Sara "
    "David Ella Robert Nina Samuel Julia Frank Kate Oliver Grace Leo Ruth Max Helen Adam Laura Ben "
    "Sofia Daniel Eva Martin Amy Hugo Lena Victor Ivy Simon Olga Felix Priya Omar Mei Kofi Yuki"
).split()
_SUFFIXES = (
    "son ton ley ford well field worth wood berry stone brook man by ham ski ez ini sen feather "
    "smith dale more land burn hurst wick combe gate bridge way lock"
).split()
_PLACE_KINDS = (
    "Street Road Lane Square Hill Park Bridge Valley Bay Island Falls Station Market Green Quay "
    "Harbour Gardens Abbey Forest Lake Court Avenue Tower"
).split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NUMBER_WORDS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()


def is_held_out(name: str) -> bool:
    """True for the one name in forty that only the probe may use."""
    return zlib.crc32(name.lower().encode()) % 40 == 0


class Names:
    """Draws values from one random stream.

    ``common`` are capitalised dictionary words, used for names like "Silver Harvest".
    With ``held_out`` every name drawn is one the training stream rejects.
    """

    def __init__(self, rng: random.Random, common: Sequence[str], held_out: bool = False) -> None:
        self.rng = rng
        self.common = common
        self.held_out = held_out

    def _draw(self, make: Callable[[], str]) -> str:
        while True:
            name = make()
            if is_held_out(name) == self.held_out:
                return name

    def coin(self, chance: float) -> bool:
        return self.rng.random() < chance

    def syllables(self, low: int, high: int) -> str:
        """A pronounceable capitalised word such as "Tharno" or "Québack"."""
        rng = self.rng
        word = ""
        for index in range(rng.randint(low, high)):
            if index or self.coin(0.8):
                word += rng.choice(_ONSETS)
            word += rng.choice(_ACCENTED if word and self.coin(0.05) else _NUCLEI)
            if self.coin(0.45):
                word += rng.choice(_CODAS)
        return word[:12].capitalize()

    def surname(self) -> str:
        stem = self.rng.choice(self.common) if self.coin(0.4) else self.syllables(1, 2)
        if self.coin(0.4):
            stem += self.rng.choice(_SUFFIXES)
        if self.coin(0.05):
            stem = self.rng.choice(["O'", "Mc", "Van ", "de "]) + stem
        return stem

    def _person(self) -> str:
        roll = self.rng.random()
        first = self.rng.choice(_FIRST) if roll < 0.5 else self.syllables(1, 3)
        if roll > 0.93:
            return f"{self.rng.choice(['Dr', 'Mr', 'Mrs', 'Ms', 'Sir'])} {self.surname()}"
        return first if 0.46 < roll < 0.54 else f"{first} {self.surname()}"

    def _place(self) -> str:
        roll = self.rng.random()
        stem = self.rng.choice(self.common) if self.coin(0.4) else self.syllables(1, 3)
        if roll < 0.35:
            return f"{stem} {self.rng.choice(_PLACE_KINDS)}"
        return stem + self.rng.choice(_SUFFIXES) if roll < 0.6 else stem

    def _brand(self) -> str:
        rng, roll = self.rng, self.rng.random()
        one, two = rng.choice(self.common), rng.choice(self.common)
        made = self.syllables(1, 3)
        if roll < 0.2:
            return f"The {one}"
        if roll < 0.35:
            return f"The {one} {two}"
        if roll < 0.5:
            return f"{one} {two}"
        if roll < 0.6:
            return f"{made} {one}"
        if roll < 0.65:
            return f"{made} {rng.choice(['&', 'and'])} {rng.choice(['Sons', 'Co', one])}"
        if roll < 0.75:
            return f"{one}{two.lower()}"
        if roll < 0.8:
            return f"{made} {rng.randint(2, 99)}"
        return f"The {made}" if roll < 0.87 else made

    def person(self) -> str:
        return self._draw(self._person)

    def place(self) -> str:
        return self._draw(self._place)

    def brand(self) -> str:
        return self._draw(self._brand)

    def any_name(self) -> str:
        return self.rng.choice([self.person, self.place, self.brand])()

    def title(self) -> str:
        """A title of a book or film: two to five capitalised words."""
        rng = self.rng

        def make() -> str:
            words = [rng.choice(self.common) for _ in range(rng.randint(1, 3))]
            if self.coin(0.4):
                words[-1:] = [
                    words[-1],
                    rng.choice(["of the", "and the", "in", "for"]),
                    rng.choice(self.common),
                ]
            return ("The " if self.coin(0.5) else "") + " ".join(words).strip()

        return self._draw(make)

    def price(self) -> str:
        rng, sign = self.rng, self.rng.choice(["£", "$", "€", "£", "$"])
        whole = rng.choice([rng.randint(1, 99), rng.randint(100, 9999)])
        roll = rng.random()
        if roll < 0.4:
            return f"{sign}{whole}"
        if roll < 0.7:
            return f"{sign}{whole}.{rng.randint(0, 99):02d}"
        if roll < 0.8:
            return (
                f"{rng.choice(['less than', 'more than', 'about', 'under', 'over'])} {sign}{whole}"
            )
        return f"{sign}{whole}-{whole + rng.randint(1, 50)}" if roll < 0.9 else f"{whole} dollars"

    def clock(self) -> str:
        rng = self.rng
        hour, minute = rng.randint(1, 12), rng.choice([0, 15, 30, 45, rng.randint(1, 59)])
        roll = rng.random()
        if roll < 0.5:
            return f"{(hour + rng.choice([0, 11])) % 24:02d}:{minute:02d}"
        half = rng.choice(["am", "pm"])
        if roll < 0.65:
            return f"{hour} {half}" if self.coin(0.5) else f"{hour}{half}"
        return f"{hour}{rng.choice([':', '.'])}{minute:02d}{rng.choice(['', ' '])}{half}"

    def phone(self) -> str:
        rng = self.rng
        shape = rng.choice(
            ["###-####", "0#### ######", "(0##) ### ####", "+## ### ### ###", "#######"]
        )
        return "".join(str(rng.randint(0, 9)) if mark == "#" else mark for mark in shape)

    def code(self) -> str:
        rng = self.rng
        letters = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
        return f"{letters}{rng.choice(['', '-', ' '])}{rng.randint(1, 99999)}"

    def email(self) -> str:
        user = self.surname().lower().replace(" ", "").replace("'", "")
        number = self.rng.choice(["", str(self.rng.randint(1, 99))])
        return f"{user}{number}@{self.syllables(1, 2).lower()}.com"

    def date(self) -> str:
        rng = self.rng
        day, month = rng.randint(1, 28), rng.choice(MONTHS)
        return rng.choice(
            [
                f"{day} {month}",
                f"{month} {day}",
                f"{day} {month} {rng.randint(1900, 2030)}",
                f"{day:02d}/{rng.randint(1, 12):02d}/{rng.randint(1990, 2030)}",
                rng.choice(DAYS),
            ]
        )

    def number(self) -> str:
        rng = self.rng
        return str(rng.choice([rng.randint(1, 20), rng.randint(1, 999), rng.randint(1, 2_000_000)]))

    def value(self) -> str:
        """Any of the above."""
        return self.rng.choice(
            [
                self.any_name,
                self.any_name,
                self.any_name,
                self.title,
                self.price,
                self.clock,
                self.phone,
                self.code,
                self.date,
                self.number,
                self.email,
            ]
        )()
