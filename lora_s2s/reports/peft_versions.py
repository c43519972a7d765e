"""The oldest version of PEFT that loads our adapters.

Measured with every method's adapter on the bundled base, PEFT 0.13 to 0.21 and transformers 4.57,
by comparing logits. Older versions raise an error (unknown type; unknown key before 0.14), with two
exceptions that load without error and without effect: OFT before 0.16, whose weights had other
    names,
and trained single tokens before 0.15.
"""

from __future__ import annotations

from collections.abc import Mapping

# By the type in adapter_config.json, measured with transformers 4.57.
PEFT_THAT_READS = {
    "LORA": "0.14",
    "IA3": "0.14",
    "VERA": "0.14",
    "LOHA": "0.14",
    "LOKR": "0.14",
    "OFT": "0.16",
    "MISS": "0.17",
    "HIRA": "0.20",
}
_TRAINED_ROWS = "0.18"
# PEFT before 0.21 uses functions that transformers 5.23 no longer has.
WITH_NEW_TRANSFORMERS = "0.21"


def peft_that_reads(config: Mapping[str, object]) -> str | None:
    """The oldest version of PEFT that loads an adapter with this config; None if unknown."""
    oldest = PEFT_THAT_READS.get(str(config.get("peft_type")))
    return _TRAINED_ROWS if oldest and config.get("trainable_token_indices") else oldest
