"""Languages: codes of NLLB, and the usual words by which a text's language is recognised."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

NLLB_CODES = dict(
    pair.split(":")
    for pair in """
af:afr_Latn am:amh_Ethi ar:arb_Arab az:azj_Latn be:bel_Cyrl bg:bul_Cyrl bn:ben_Beng bs:bos_Latn
ca:cat_Latn cs:ces_Latn cy:cym_Latn da:dan_Latn de:deu_Latn el:ell_Grek en:eng_Latn eo:epo_Latn
es:spa_Latn et:est_Latn eu:eus_Latn fa:pes_Arab fi:fin_Latn fr:fra_Latn ga:gle_Latn gl:glg_Latn
gu:guj_Gujr ha:hau_Latn he:heb_Hebr hi:hin_Deva hr:hrv_Latn hu:hun_Latn hy:hye_Armn id:ind_Latn
ig:ibo_Latn is:isl_Latn it:ita_Latn ja:jpn_Jpan ka:kat_Geor kk:kaz_Cyrl km:khm_Khmr kn:kan_Knda
ko:kor_Hang lb:ltz_Latn lo:lao_Laoo lt:lit_Latn lv:lvs_Latn mk:mkd_Cyrl ml:mal_Mlym mn:khk_Cyrl
mr:mar_Deva ms:zsm_Latn mt:mlt_Latn my:mya_Mymr nb:nob_Latn ne:npi_Deva nl:nld_Latn nn:nno_Latn
no:nob_Latn pa:pan_Guru pl:pol_Latn pt:por_Latn ro:ron_Latn ru:rus_Cyrl si:sin_Sinh sk:slk_Latn
sl:slv_Latn so:som_Latn sq:als_Latn sr:srp_Cyrl sv:swe_Latn sw:swh_Latn ta:tam_Taml te:tel_Telu
tg:tgk_Cyrl th:tha_Thai tl:tgl_Latn tr:tur_Latn uk:ukr_Cyrl ur:urd_Arab uz:uzn_Latn vi:vie_Latn
xh:xho_Latn yo:yor_Latn zh:zho_Hans zu:zul_Latn
""".split()
)
_NAMES = dict(
    pair.split(":")
    for pair in """
english:en german:de french:fr spanish:es italian:it portuguese:pt dutch:nl swedish:sv danish:da
norwegian:no finnish:fi polish:pl czech:cs slovak:sk hungarian:hu romanian:ro bulgarian:bg greek:el
turkish:tr russian:ru ukrainian:uk arabic:ar hebrew:he hindi:hi bengali:bn tamil:ta urdu:ur
persian:fa chinese:zh japanese:ja korean:ko vietnamese:vi thai:th indonesian:id malay:ms swahili:sw
catalan:ca basque:eu irish:ga welsh:cy icelandic:is
""".split()
)
# Frequent words of languages in Latin letters; not single letters, which are also sounds.
_WORDS = {
    "English": "the of and to is that for it with as was are this be from you what how your my",
    "German": "der die und das ist nicht ein eine den dem mit auf zu von sich auch wie",
    "French": "le les des est une du dans pour que qui sur pas avec au ne vous et",
    "Spanish": "el los las una del por para con es lo como pero su al",
    "Italian": "il di che non gli per una sono della con nel alla",
    "Portuguese": "os não uma em do da para com são ao mais",
    "Dutch": "het een van en niet dat zijn op aan voor met ook maar",
    "Polish": "nie się na jest że do jak to co",
    "Swedish": "och att det som är inte på av för ett jag",
    "Turkish": "bir ve bu için ile çok da ne gibi daha",
    "Indonesian": "yang dan di untuk dengan tidak ini itu dari pada",
}
_FOREIGN_SCRIPT = 0.2
_LEAST_SHARE, _TIMES_ENGLISH = 0.05, 2.0
_WORD = re.compile(r"[^\W\d_]+")
_MOST_CHARACTERS = 400_000


def language_code(name: str) -> str:
    """Returns the two-letter code of a column that is named by a language: ``de`` of ``German`` or
    ``de-AT``.
    """
    name = name.strip().lower()
    return _NAMES.get(name, re.split(r"[-_]", name)[0])


def language_of_texts(texts: Iterable[str]) -> tuple[str, str]:
    """Guesses the language of texts: ``English`` unless their script or words speak for another.

    Returns:
        the language or script, and what speaks for it.

    >>> language_of_texts(["Was ist das für ein Haus, und wie hoch ist der Turm auf dem Berg?"])[0]
    'German'
    """
    text = " ".join(texts)[:_MOST_CHARACTERS].lower()
    scripts = Counter(map(_script, filter(str.isalpha, text)))
    letters = max(1, scripts.total())
    others = Counter({name: count for name, count in scripts.items() if name != "LATIN"})
    if others and others.total() > _FOREIGN_SCRIPT * letters:
        script, count = others.most_common(1)[0]
        return script.capitalize(), f"{count / letters:.0%} of the letters are {script.lower()}"
    words = Counter(_WORD.findall(text))
    shares = {name: _share(words, listed.split()) for name, listed in _WORDS.items()}
    best = max(shares, key=lambda name: shares[name])
    if best != "English" and shares[best] >= max(_LEAST_SHARE, _TIMES_ENGLISH * shares["English"]):
        return best, f"{shares[best]:.0%} of the words are frequent ones of {best}"
    share = shares["English"]
    if share < _LEAST_SHARE:
        return "English", "assumed: Latin letters, and few words that tell a language"
    return "English", f"{share:.0%} of the words are frequent ones of English"


def _script(char: str) -> str:
    return "LATIN" if char.isascii() else unicodedata.name(char, "OTHER").split()[0].split("-")[0]


def _share(words: Counter[str], listed: Sequence[str]) -> float:
    return sum(words[word] for word in listed) / max(1, words.total())
