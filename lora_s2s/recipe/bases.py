"""Which base for which data: the bases that ``init`` chooses among, and the rules, each with its
reason.

A family is chosen by the data (task, language, characters), its size by the machine. Parameters are
those of the published checkpoints. Nothing here loads a model or asks a hub, beyond its cache.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lora_s2s.hub import is_local, is_offline
from lora_s2s.recipe.languages import NLLB_CODES, language_code

FLAN, MT5, BYT5, NLLB, BART, CODET5, T5GEMMA = (
    "Flan-T5",
    "mT5",
    "ByT5",
    "NLLB",
    "BART",
    "CodeT5+",
    "T5Gemma",
)


@dataclass(frozen=True)
class Base:
    """One published checkpoint.

    Attributes:
        name: its hub id, or ``demo``.
        millions: its parameters.
        characters: how many of a usual text are one token, to estimate lengths without its
            tokenizer.
    """

    name: str
    family: str
    millions: float
    characters: float = 4.0

    @property
    def parameters(self) -> float:
        """The number of parameters."""
        return self.millions * 1e6


# Smallest first in each family; English text has about 4 characters a T5 token.
BASES = (
    Base("google/flan-t5-small", FLAN, 77.0),
    Base("google/flan-t5-base", FLAN, 247.6),
    Base("google/flan-t5-large", FLAN, 783.2),
    Base("google/flan-t5-xl", FLAN, 2849.8),
    Base("google/flan-t5-xxl", FLAN, 11135.3),
    Base("google/mt5-small", MT5, 300.2, 3.0),
    Base("google/mt5-base", MT5, 582.4, 3.0),
    Base("google/mt5-large", MT5, 1229.6, 3.0),
    Base("google/mt5-xl", MT5, 3742.6, 3.0),
    Base("google/byt5-small", BYT5, 299.6, 0.9),
    Base("google/byt5-base", BYT5, 581.7, 0.9),
    Base("google/byt5-large", BYT5, 1228.0, 0.9),
    Base("facebook/nllb-200-distilled-600M", NLLB, 615.1, 3.0),
    Base("facebook/nllb-200-distilled-1.3B", NLLB, 1370.6, 3.0),
    Base("facebook/nllb-200-3.3B", NLLB, 3344.9, 3.0),
    Base("facebook/bart-base", BART, 139.4),
    Base("facebook/bart-large", BART, 406.3),
    Base("Salesforce/codet5-small", CODET5, 60.5, 3.0),
    Base("Salesforce/codet5p-220m", CODET5, 222.9, 3.0),
    Base("Salesforce/codet5p-770m", CODET5, 737.6, 3.0),
    Base("google/t5gemma-s-s-prefixlm", T5GEMMA, 312.5),
    Base("google/t5gemma-b-b-prefixlm", T5GEMMA, 591.5),
    Base("google/t5gemma-l-l-prefixlm", T5GEMMA, 1241.8),
)
BUNDLED = Base("demo", FLAN, 4.6, 3.0)

# Not ASCII, and in the pieces of T5's vocabulary.
_T5_LETTERS = frozenset("£«­®°»ÉÎÜßàáâäçèéêîóôöùûüăşţșțавдеиклмнорсту–—‘’“”„•′€")
_T5_LACKS = frozenset("\\^`{}~<")
_T5_WRITES = (frozenset(string.printable) - frozenset("\n\t\r\v\f") - _T5_LACKS) | _T5_LETTERS
# What data.lossless_text can add: 28 unused embedding rows, 11 of them always taken, and marks.
_LOSSLESS = frozenset("\n\t") | _T5_LACKS
_MOST_ADDED, _SHARE_LOST = 40, 0.001


@dataclass(frozen=True)
class Traits:
    """What of a file's data decides the family.

    Attributes:
        task: ``translation``, ``dialogue``, ``labels``, ``extraction``, ``spelling`` (words to
            words, letter by letter), ``short answers`` or ``text``.
        languages: of the two columns, if they name some.
        language: of the texts, in words: ``English``, another one, or a script.
        evidence: what speaks for it.
        code: the targets look like source code.
        target_characters: character → occurrences in the targets.
    """

    task: str
    languages: tuple[str, str] | None
    language: str
    evidence: str
    code: bool
    target_characters: Mapping[str, int]

    @property
    def english(self) -> bool:
        """Whether the texts are English, or nothing speaks against it."""
        return self.language == "English"

    @property
    def in_nllb(self) -> bool:
        """Whether NLLB has codes of both languages."""
        codes = [language_code(name) for name in self.languages or ()]
        return len(codes) == 2 and all(code in NLLB_CODES for code in codes)

    @property
    def t5_can_write(self) -> bool:
        """Whether T5's vocabulary and its unused embedding rows write the targets."""
        lost = lost_to_t5(self.target_characters)
        others = [count for char, count in lost.items() if char not in _LOSSLESS]
        total = sum(self.target_characters.values())
        return len(others) <= _MOST_ADDED or sum(others) <= _SHARE_LOST * total


def lost_to_t5(characters: Mapping[str, int]) -> dict[str, int]:
    """The characters that T5's vocabulary lacks, most frequent first, with their occurrences.

    >>> lost_to_t5({"a": 9, "é": 3, "{": 2, "字": 1})
    {'{': 2, '字': 1}
    """
    # T5's normalisation comes first: a full-width letter or an ellipsis is written in ASCII.
    lost = {
        char: count
        for char, count in characters.items()
        if not _T5_WRITES.issuperset(unicodedata.normalize("NFKC", char))
    }
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Rule:
    """A family, and for which data it is chosen.

    Attributes:
        reason: why, in few words, which may name the language of the texts; and what a user must
            know before using it, such as its licence.
        more: further reasons.
        weights: what to do where the hub has none that are loaded.
    """

    family: str
    fits: Callable[[Traits], bool]
    reason: str
    more: str
    weights: str = ""

    def why(self, traits: Traits) -> str:
        """The reason for data of these traits."""
        return self.reason.format(language=traits.language)


# Pickled weights are never loaded (SECURITY.md).
_OLD = (
    "if the hub has its weights only as pytorch_model.bin, set model.revision to the branch with "
    "safetensors (refs/pr/N on the model's page)"
)
_LACKS = "T5's vocabulary lacks too many characters of the targets"
# The first that fits is taken.
RULES = (
    Rule(
        NLLB,
        lambda data: data.task == "translation" and data.in_nllb,
        "trained to translate between these languages; its licence, CC BY-NC 4.0, forbids "
        "commercial use",
        "the columns are two of NLLB's 200 languages",
        _OLD,
    ),
    Rule(
        BYT5,
        lambda data: data.task in ("translation", "spelling"),
        "for any language, letter by letter",
        "ByT5 reads bytes: no script is unknown to it, also of languages that NLLB lacks, and of "
        "single words it sees every letter, where other bases see pieces",
        _OLD,
    ),
    Rule(
        MT5,
        lambda data: not data.english,
        "for texts in {language}",
        "mT5 was pretrained on 101 languages, Flan-T5 on English first (UMT5 is mT5's successor; "
        "transformers before 5.24 scale its head wrongly)",
        _OLD,
    ),
    Rule(
        FLAN,
        lambda data: data.t5_can_write,
        "for texts in {language}",
        "Flan-T5 has been trained on over 1,800 tasks with instructions; T5's vocabulary writes "
        "the targets, with its unused embedding rows for what it lacks",
    ),
    Rule(
        CODET5,
        lambda data: data.code,
        "for code",
        f"{_LACKS}; CodeT5+ was pretrained on code",
        _OLD,
    ),
    Rule(
        BART,
        lambda data: data.task in ("labels", "short answers"),
        "it writes all characters of the targets",
        f"{_LACKS}, BART's has all bytes; it is the smaller base for short answers",
    ),
    Rule(
        T5GEMMA,
        lambda _: True,
        "it writes all characters of the targets; its licence has to be accepted on the hub first "
        "(hf auth login)",
        f"{_LACKS}; T5Gemma's 256,000 pieces and bytes have them all",
    ),
)


def family_for(data: Traits) -> Rule:
    """The rule that chooses the family of bases for data."""
    return next(rule for rule in RULES if rule.fits(data))


def sizes_of(family: str) -> list[Base]:
    """The bases of a family, smallest first."""
    return [base for base in BASES if base.family == family]


def bases_here(family: str) -> list[Base]:
    """The bases of a family, smallest first; where the hub is switched off, those that are here."""
    return [base for base in sizes_of(family) if not is_offline() or is_local(base.name, None)]


def known_base(name: str) -> Base | None:
    """The base of a hub id, or the bundled one; None if the table lacks it."""
    return next((base for base in (*BASES, BUNDLED) if base.name == name), None)
