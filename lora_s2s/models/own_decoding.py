"""A checkpoint's own generation settings: keys of ``evaluation``, others that are passed on, and
those that nothing follows.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import GenerationConfig

CHECKPOINT = "checkpoint"  # the value of evaluation.decoding that follows them
# No answer depends on these, but for the ids at the end, which are used.
_IRRELEVANT = frozenset(
    """
    transformers_version use_cache return_dict_in_generate output_attentions
    output_hidden_states output_scores output_logits cache_implementation cache_config
    return_legacy_cache prefill_chunk_size compile_config disable_compile max_time
    num_return_sequences remove_invalid_values renormalize_logits token_healing is_assistant
    decoder_start_token_id bos_token_id eos_token_id pad_token_id forced_bos_token_id
    bad_words_ids
""".split()
)
OF_SAMPLING = frozenset(
    "temperature top_k top_p top_h min_p typical_p epsilon_cutoff eta_cutoff".split()
)
WITHOUT_EFFECT = {
    "num_beams": 1,
    "min_length": 0,
    "max_length": 20,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
}
_KEYS = ("num_beams", "length_penalty", "repetition_penalty", "no_repeat_ngram_size")
# Whole numbers above 0, which change answers and are no keys.
_PASSED_ON = ("min_length", "min_new_tokens", "encoder_no_repeat_ngram_size")
_MOST = 65_536


@dataclass(frozen=True)
class OwnDecoding:
    """A checkpoint's generation settings that would change answers.

    Attributes:
        keys: keys of ``evaluation``, by their names there.
        passed_on: others that ``decoding: checkpoint`` follows, by transformers' names.
        ignored: those that nothing follows.
        changed: all of them, as they stand in the checkpoint.
    """

    keys: Mapping[str, Any] = field(default_factory=dict)
    passed_on: Mapping[str, Any] = field(default_factory=dict)
    ignored: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)

    def lines(self, *, followed: bool) -> list[str]:
        """Returns what to say of them.

        Args:
            followed: whether ``decoding`` is ``checkpoint``.
        """
        begin = "from the checkpoint's generation_config"
        used = {name: value for name, value in self.changed.items() if name not in self.ignored}
        if followed:
            lines = [f"{begin}: {words(used) or 'nothing'}"]
            return [*lines, *([f"not used {begin}: {words(self.ignored)}"] if self.ignored else [])]
        hint = " (evaluation.decoding=checkpoint follows them)" if used else ""
        return [f"not used {begin}: {words(self.changed)}{hint}"] if self.changed else []


def own_decoding(own: GenerationConfig) -> OwnDecoding:
    """Returns a checkpoint's generation settings that would change answers."""
    changed = changed_settings(own)
    keys = {name: changed[name] for name in _KEYS if name in changed}
    if changed.get("early_stopping") is True:
        keys["early_stopping"] = True
    if isinstance(longest := changed.get("max_length"), int) and longest > 1:
        keys["max_new_tokens"] = longest - 1  # the decoder's start counts there
    if "max_new_tokens" in changed:
        keys["max_new_tokens"] = changed["max_new_tokens"]
    if changed.get("do_sample") is True and "num_beams" not in changed:
        keys["temperature"] = 1.0 if own.temperature is None else own.temperature
        keys["top_p"] = 1.0 if own.top_p is None else own.top_p
    passed_on = {name: changed[name] for name in _PASSED_ON if _counts(changed.get(name))}
    if (end := changed.get("forced_eos_token_id")) is not None and end == own.eos_token_id:
        passed_on["forced_eos_token_id"] = end
    used = {*keys, *passed_on, *(["max_length"] if "max_new_tokens" in keys else [])}
    used |= {"do_sample"} if "temperature" in keys else set()
    ignored = {name: value for name, value in changed.items() if name not in used}
    return OwnDecoding(keys, passed_on, ignored, changed)


def _counts(value: object) -> bool:
    return type(value) is int and 0 < value <= _MOST


def changed_settings(own: GenerationConfig) -> dict[str, Any]:
    """Returns a checkpoint's settings that would change answers."""
    usual, settings = GenerationConfig().to_dict(), own.to_dict()
    skipped = _IRRELEVANT if settings.get("do_sample") is True else _IRRELEVANT | OF_SAMPLING
    return {
        key: value
        for key, value in settings.items()
        if value not in (None, False, usual.get(key), WITHOUT_EFFECT.get(key))
        and key not in skipped
        and key[0] != "_"
    }


def words(settings: Mapping[str, Any]) -> str:
    """Returns settings as one line."""
    return ", ".join(f"{key} {reprlib.repr(value)}" for key, value in settings.items())
