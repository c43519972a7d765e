"""Usual column names, in lower case: one table for detecting headers and for guessing columns."""

from __future__ import annotations

import re


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (first, second) for first, _, second in (word.partition(">") for word in text.split())
    )


# A source and its target; looked for in this order.
KNOWN_PAIRS = _pairs("""
    source>target input>output input>target question>answer text>summary mr>ref prompt>completion
    instruction>output src>tgt document>summary article>highlights dialogue>summary prompt>response
    question>answers instruction>response query>response input_text>target_text inputs>targets
    document>abstract article>abstract article>summary message>reply message>response text>label
    text>category text>class text>intent utterance>intent sentence>label sentence>class
    dialog>summary conversation>summary text>title text>target source>reference src>ref
    original>simplified original>simple complex>simple question>query question>sql context>response
    nl>cmd problem>solution question>response
""")
# Without such a pair: one usual name of a source and one of a target.
SOURCES = (
    *dict.fromkeys(source for source, _ in KNOWN_PAIRS),
    *"""
    content body passage review tweet comment email transcript noisy incorrect informal en english
""".split(),
)
TARGETS = (
    *dict.fromkeys(target for _, target in KNOWN_PAIRS),
    *"""
    labels categories sentiment emotion topic tag references correction corrected formal translation
    paraphrase headline simplification gold expected answer_text
""".split(),
)
# Numbers of rows, as spreadsheets and pandas leave them.
ROW_NUMBERS = ("", "unnamed: 0", *"id idx index guid uid uuid row row_id no no. #".split())
_IDENTIFIER = re.compile(r"|_*id|idx|index|row|guid|uuid|uid|.+[_ -]id|unnamed: \d+", re.IGNORECASE)
# A column of splits, and its values.
SPLIT_COLUMNS = tuple("split fold subset partition set data_split dataset_split".split())
SPLIT_NAMES = {
    "train": ("train", "training", "trainset"),
    "validation": ("dev", "devset", "valid", "validation", "val", "eval", "development"),
    "test": ("test", "testset", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# A language code for each row, of its source and its target.
LANGUAGE_COLUMNS = _pairs("""
    src_lang>tgt_lang source_lang>target_lang source_language>target_language
    src_language>tgt_language lang_src>lang_tgt from_lang>to_lang sourcelang>targetlang
    src_lng>tgt_lng language>language lang>lang
""")
LANGUAGES = tuple(
    """
    english german french spanish italian portuguese dutch swedish danish norwegian finnish polish
    czech slovak hungarian romanian bulgarian greek turkish russian ukrainian arabic hebrew hindi
    bengali tamil urdu persian chinese japanese korean vietnamese thai indonesian malay swahili
    catalan basque irish welsh icelandic
""".split()
)
_CODE = re.compile(r"([a-z]{2})([-_][a-z]{2,4})?|([a-z]{3})[-_][a-z]{4}", re.IGNORECASE)
_ISO = set(
    "aa ab af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cv cy da de "
    "dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi hr ht hu "
    "hy ia id ig ii ik io is it iu ja jv ka kg ki kk kl km kn ko kr ks ku kv kw ky la lb "
    "lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny "
    "oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq "
    "sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa "
    "wo xh yi yo za zh zu".split()
)
_OTHERS = "title context name date url author type score hypothesis premise"
KNOWN = {*SOURCES, *TARGETS, *ROW_NUMBERS, *SPLIT_COLUMNS, *LANGUAGES, *_OTHERS.split()} - {
    "",
    "no",
}
KNOWN |= {name for pair in LANGUAGE_COLUMNS for name in pair}


def language_of(name: str) -> str | None:
    """Returns the language that a column's name is: ``en`` of ``EN``, ``en-US`` and ``en_GB``; else
    None.
    """
    name = normalised(name)
    if name in LANGUAGES:
        return name
    found = _CODE.fullmatch(name)
    return (found[1] or found[3]) if found else None


def normalised(name: str) -> str:
    """Returns a column's name as the tables here write names."""
    return name.strip().lower()


def is_language_code(text: str) -> bool:
    """Whether a text is a code such as ``en``, ``pt-BR`` or ``eng_Latn``, of a real language."""
    found = _CODE.fullmatch(text.strip())
    return found is not None and (found[3] is not None or found[1].lower() in _ISO)


def is_identifier(name: str) -> bool:
    """Whether a column's name is that of a row number or identifier."""
    return bool(_IDENTIFIER.fullmatch(name.strip()))
