"""A model's tokenizer: loaded with its languages set, hashed, its embedding rows counted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING

from lora_s2s import probe
from lora_s2s.errors import DataError, Error, SetupError, UsageError
from lora_s2s.files import read_json, sha256_file, sha256_json
from lora_s2s.hub import locate_model
from lora_s2s.tokens.files import NO_TOKENIZER, TOKENIZER_FILES, check_tokenizer_files
from lora_s2s.tokens.special_tokens import complete

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LANGUAGES = ("source_language", "target_language")
_NLLB_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_LISTED = 8


def languages_of(settings: object) -> dict[str, str | None]:
    """Returns the languages of a recipe's data or of a manifest's input, for
    :func:`load_tokenizer`.
    """
    return {key: getattr(settings, key) for key in LANGUAGES}


def load_tokenizer(
    model_name: str,
    revision: str | None = None,
    *,
    source_language: str | None = None,
    target_language: str | None = None,
) -> PreTrainedTokenizerBase:
    """Loads a model's tokenizer, its languages set, with the clean-up that rewrites decoded text
    off.

    Raises:
        UsageError: a language is missing where texts carry a code, unknown, or given where texts
            carry none.
        DataError: the folder holds no tokenizer, a damaged one, or one that asks for too much.
        SetupError: a package to read it is missing, or the model cannot be loaded.
    """
    folder = locate_model(model_name, revision, weights=False)
    check_tokenizer_files(folder)
    probe.check_tokenizer(folder)
    tokenizer = plain_tokenizer(folder, model_name)
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        problem = f"the tokenizer of {model_name} has no end or padding token"
        raise DataError(problem, where=str(folder))
    languages = dict(zip(LANGUAGES, (source_language, target_language), strict=True))
    _set_languages(tokenizer, languages, model_name)
    return complete(tokenizer)


def plain_tokenizer(folder: Path, model_name: str) -> PreTrainedTokenizerBase:
    """Opens a tokenizer as any user of transformers does; its folder was checked before.

    Raises:
        DataError: it is damaged.
        SetupError: a package to read it is missing.
    """
    # Seconds to import, and what only reads data does without.
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Marian's recommends a package for rarer punctuation
            return AutoTokenizer.from_pretrained(
                folder, clean_up_tokenization_spaces=False, local_files_only=True
            )
    except ImportError as error:
        problem = f"the tokenizer of {model_name} needs a package: {error}"
        raise SetupError(problem, hint="pip install sentencepiece protobuf") from error
    except BaseException as error:
        # Whatever else goes wrong over these files is in them; the Rust part raises bare
        # Exceptions, and panics.
        if isinstance(error, (Error, MemoryError, KeyboardInterrupt, SystemExit)):
            raise
        reason = str(error).strip().split("\n")[0][:200]
        problem = f"no tokenizer can be loaded from {model_name}: {reason}"
        raise DataError(problem, hint=NO_TOKENIZER, where=str(folder)) from error
    finally:
        transformers_logging.set_verbosity(level)


def language_codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Returns language code → id of a tokenizer that marks every text with one; empty for any
    other.
    """
    if not hasattr(tokenizer, "src_lang"):
        return {}
    named: dict[str, int] | None = getattr(tokenizer, "lang_code_to_id", None)
    if named is None:
        tokens = map(str, tokenizer.extra_special_tokens)
        codes = [token for token in tokens if _NLLB_CODE.fullmatch(token)]
        named = dict(zip(codes, tokenizer.convert_tokens_to_ids(codes), strict=True))
    return {code: token for code, token in sorted(named.items()) if token != tokenizer.unk_token_id}


def _set_languages(
    tokenizer: PreTrainedTokenizerBase, asked: Mapping[str, str | None], name: str
) -> None:
    codes = language_codes(tokenizer)
    for key, code in asked.items():
        if not codes and code is not None:
            hint = "omit it; a task prefix such as >>fra<< goes into data.template"
            raise UsageError(
                f"data.{key} is '{code}', but {name} marks no text with a language", hint=hint
            )
        if codes and code not in codes:
            problem = f"'{code}' is unknown"
            if not code:
                problem = f"is missing: {name} marks every text with its language"
            alike = [other for other in codes if code and other[:2].lower() == code[:2].lower()]
            near = alike or [*codes]
            listed = ", ".join(near[:_LISTED]) + (", …" if len(near) > _LISTED else "")
            raise UsageError(
                f"data.{key} {problem}; codes: {listed}", hint=f"--set data.{key}={near[0]}"
            )
    if codes:
        tokenizer.src_lang, tokenizer.tgt_lang = asked.values()


def tokenizer_hash(model_name: str, revision: str | None) -> str:
    """Returns a hash over the tokenizer's files."""
    folder: Path = locate_model(model_name, revision, weights=False)
    return sha256_json(
        {name: sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    )


def embedding_rows(tokenizer: Sized, model_name: str, revision: str | None) -> int:
    """Returns how many rows a base's embeddings have; of a tokenizer alone, its entries padded to
    128 as T5's are.
    """
    folder = locate_model(model_name, revision, weights=False)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    rows = config.get("vocab_size") if isinstance(config, dict) else None
    return rows if isinstance(rows, int) else -(-len(tokenizer) // 128) * 128
