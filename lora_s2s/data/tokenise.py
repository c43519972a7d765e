"""Texts to token ids: source and target apart, each cut by its own rule. The one place that encodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lora_s2s.data.example import Example
from lora_s2s.errors import DataError, SetupError
from lora_s2s.files import sha256_file, sha256_json
from lora_s2s.hub import locate_model

_TOKENIZER_FILES = (
    "tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Features:
    """One example as token ids: ``input_ids`` ends in ``</s>``; ``labels`` too, unless the target was cut."""

    input_ids: list[int]
    labels: list[int]
    source_truncated: bool = False
    target_truncated: bool = False


def load_tokenizer(model_name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Loads a model's tokenizer, with the clean-up that rewrites decoded text off.

    Raises:
        DataError: the folder holds no tokenizer, or a damaged one.
        SetupError: a package to read it is missing, or the model cannot be had.
    """
    folder = locate_model(model_name, revision)
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, clean_up_tokenization_spaces=False, local_files_only=True)
    except ImportError as error:
        hint = "pip install sentencepiece protobuf"
        raise SetupError(f"the tokenizer of {model_name} needs a package: {error}", hint=hint) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        hint = "name a model whose folder holds tokenizer.json or spiece.model"
        raise DataError(
            f"no tokenizer can be loaded from {model_name}: {reason}", hint=hint, where=str(folder)
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise DataError(f"the tokenizer of {model_name} has no end or padding token", where=str(folder))
    return tokenizer


def tokenizer_hash(model_name: str, revision: str | None = None) -> str:
    """Returns a hash over the tokenizer's files."""
    folder: Path = locate_model(model_name, revision)
    return sha256_json({name: sha256_file(folder / name) for name in _TOKENIZER_FILES if (folder / name).is_file()})


def encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Returns each text's ids, no special token added, and none let in.

    ``</s>``, ``<pad>`` or ``<extra_id_5>`` written in a text are text: T5's vocabulary has them as whole pieces even
    where special tokens are not looked for, so their ids are replaced by those of their letters.
    """
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )["input_ids"]
    control = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [ids if control.isdisjoint(ids) else _spelled_out(ids, control, tokenizer) for ids in encoded]


def _spelled_out(ids: Sequence[int], control: frozenset[int], tokenizer: Any) -> list[int]:
    out: list[int] = []
    for token in ids:
        if token in control:
            letters = (tokenizer.convert_tokens_to_ids(letter) for letter in tokenizer.convert_ids_to_tokens(token))
            out.extend(letter for letter in letters if letter is not None and letter not in control)
        else:
            out.append(token)
    return out


def encode_source(
    text: str, tokenizer: PreTrainedTokenizerBase, *, max_source_tokens: int, truncate_source: str
) -> list[int]:
    """Returns a source's ids, at most ``max_source_tokens`` with the final ``</s>``.

    Args:
        truncate_source: ``left`` keeps the end of the text; ``right`` (and ``drop``, which only preparing can do) its
            beginning.
    """
    ids = encode_texts([text], tokenizer)[0]
    return [*_cut(ids, max_source_tokens - 1, truncate_source), int(tokenizer.eos_token_id)]


def _cut(ids: list[int], room: int, side: str) -> list[int]:
    if len(ids) <= room:
        return ids
    return ids[len(ids) - room :] if side == "left" else ids[:room]


def side_for(example: Example, truncate_source: str) -> str:
    """Returns the side an example's source is cut on: a dialogue's newest turns are always the ones to keep."""
    return "left" if example.cut_left and truncate_source == "right" else truncate_source


def features_of(
    source: list[int],
    target: list[int],
    end: int,
    *,
    max_source_tokens: int,
    max_target_tokens: int,
    truncate_source: str,
    long_targets: str,
) -> Features | str:
    """Cuts encoded texts and closes them with ``end`` (``</s>``), or returns the reason for leaving the pair out.

    Args:
        truncate_source: ``left`` and ``right`` cut there, ``</s>`` stays; ``drop`` leaves the pair out.
        long_targets: ``drop`` leaves the pair out; ``cut`` keeps the beginning, without ``</s>``, which would teach
            the model to stop early; ``keep`` keeps all.
    """
    if not source or not target:
        return f"empty {'target' if source else 'source'} after tokenising"
    long_source = len(source) >= max_source_tokens
    if long_source and truncate_source == "drop":
        return f"source longer than {max_source_tokens} tokens"
    long_target = len(target) >= max_target_tokens
    if long_target and long_targets == "drop":
        return f"target longer than {max_target_tokens} tokens"
    input_ids = [*_cut(source, max_source_tokens - 1, truncate_source), end]
    cut_target = long_target and long_targets == "cut"
    labels = target[:max_target_tokens] if cut_target else [*target, end]
    return Features(input_ids, labels, source_truncated=long_source, target_truncated=cut_target)
