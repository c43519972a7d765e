"""Tokenizers of every kind of frame, a few hundred pieces each, built in code and written to
folders.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import transformers
from tokenizers import pre_tokenizers, processors

CHARACTERS = ["▁", *string.ascii_letters, *string.digits, *".,:;!?<>/_&"]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]


def _scored(*pieces: str) -> list[tuple[str, float]]:
    return [(piece, 0.0) for piece in pieces]


def _bart() -> Any:
    # As BART and CodeT5: bytes, and <s> x </s>.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: index for index, piece in enumerate([*SPECIALS, "<mask>", *letters])}
    return transformers.RobertaTokenizer(vocab=vocab, merges=[])


def _blenderbot() -> Any:
    # Bytes with a space before the first word, and x </s>.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    vocab = {piece: index for index, piece in enumerate([*marks, *letters])}
    tokenizer = transformers.BlenderbotTokenizer(vocab=vocab, merges=[])
    frame = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer._tokenizer.post_processor = frame
    return tokenizer


def _nllb() -> Any:
    vocab = {piece: index for index, piece in enumerate([*SPECIALS, *CHARACTERS])}
    codes = ["deu_Latn", "eng_Latn", "fra_Latn"]
    return transformers.NllbTokenizer(vocab=vocab, merges=[], extra_special_tokens=codes)


def _mbart(kind: str) -> Callable[[], Any]:
    def build() -> Any:
        made = getattr(transformers, kind)
        codes = sorted(made().lang_code_to_id)  # those of the class
        scores = [
            *_scored(*SPECIALS),
            *((piece, -3.0) for piece in CHARACTERS),
            *_scored(*codes, "<mask>"),
        ]
        return made(vocab=scores)

    return build


def _pegasus() -> Any:
    marks = [
        "<pad>",
        "</s>",
        "<mask_1>",
        "<mask_2>",
        *(f"<unk_{number}>" for number in range(2, 103)),
        "<unk>",
    ]
    return transformers.PegasusTokenizer(
        vocab=[*_scored(*marks), *((piece, -3.0) for piece in CHARACTERS)]
    )


def _gemma() -> Any:
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *bytes_, *CHARACTERS]
    tokenizer = transformers.GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]
    )
    frame = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer._tokenizer.post_processor = frame
    return tokenizer


def _t5() -> Any:
    scores = [*_scored("<pad>", "</s>", "<unk>"), *((piece, -3.0) for piece in CHARACTERS)]
    return transformers.T5Tokenizer(vocab=scores, extra_ids=2)


BUILT: dict[str, Callable[[], Any]] = {
    "t5": _t5,
    "byt5": lambda: transformers.ByT5Tokenizer(extra_ids=10),
    "bart": _bart,
    "blenderbot": _blenderbot,
    "nllb": _nllb,
    "mbart": _mbart("MBartTokenizer"),
    "mbart50": _mbart("MBart50Tokenizer"),
    "pegasus": _pegasus,
    "gemma": _gemma,
}


_LETTERS = string.ascii_lowercase
VOCABULARIES = {
    "blenderbot_slow": [
        *("<pad>", "<s>", "</s>", "<unk>", "<mask>"),
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
    ],
    "blenderbot_small": [
        *("__null__", "__start__", "__end__", "__unk__", "__newln__"),
        *(f"{letter}{after}" for letter in _LETTERS for after in ("@@", "")),
    ],
}


def _write_slow_files(kind: str, folder: Path) -> None:
    # What a checkpoint from before tokenizer.json holds; these put nothing around a text.
    vocab = {piece: index for index, piece in enumerate(VOCABULARIES[kind])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    name = "BlenderbotTokenizer" if kind == "blenderbot_slow" else "BlenderbotSmallTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))


def write_tokenizer(kind: str, folder: Path) -> str:
    """Writes a tokenizer's files and returns the folder; ``m2m_100`` and ``marian`` train a tiny
    sentencepiece.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind in VOCABULARIES:
        _write_slow_files(kind, folder)
    elif kind in BUILT:
        BUILT[kind]().save_pretrained(folder)
    else:
        _write_sentencepiece(kind, folder)
    return str(folder)


def _write_sentencepiece(kind: str, folder: Path) -> None:
    for stem, text in {"source": string.ascii_lowercase, "target": "stuvwxyz äöü"}.items():
        rows = [" ".join(text[start : start + 3]) for start in range(len(text))] * 3
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*rows, text]),
            model_prefix=str(folder / stem),
            vocab_size=len(set(text)) + 4,
            model_type="unigram",
            hard_vocab_limit=False,
            minloglevel=2,
        )
    pieces = {
        piece: None
        for stem in ("source", "target")
        for processor in [
            sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{stem}.model"))
        ]
        for piece in map(processor.IdToPiece, range(processor.GetPieceSize()))
        if piece not in ("<unk>", "<s>", "</s>")
    }
    order = (
        ["</s>", "<unk>", *pieces, ">>fra<<", "<pad>"] if kind == "marian" else [*SPECIALS, *pieces]
    )
    (folder / "vocab.json").write_text(
        json.dumps({piece: index for index, piece in enumerate(order)})
    )
    if kind == "marian":
        for stem in ("source", "target"):
            (folder / f"{stem}.model").rename(folder / f"{stem}.spm")
        made = transformers.MarianTokenizer
        made(
            str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json")
        ).save_pretrained(folder)
    else:
        made = transformers.M2M100Tokenizer
        made(str(folder / "vocab.json"), str(folder / "source.model")).save_pretrained(folder)
        for stem in ("source", "target"):
            (folder / f"{stem}.model").unlink()
