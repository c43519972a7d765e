"""Which versions of PEFT read our adapters.

Measured: every method's adapter on the bundled base, loaded by PEFT 0.13 to 0.21 beside
transformers 4.57, logits compared. Older ones end with an error (an unknown type, or an unknown key
before 0.14), but for two: before 0.16 OFT's weights had other names, and before 0.15 single tokens
did not train; both load without effect and without an error.
"""

from __future__ import annotations

from collections.abc import Mapping

# By the type in adapter_config.json; the oldest release that was measured to read them, on
# transformers 4.57.
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
# PEFT before 0.21 calls what transformers 5.23 no longer has.
WITH_NEW_TRANSFORMERS = "0.21"


def peft_that_reads(config: Mapping[str, object]) -> str | None:
    """Returns the oldest version of PEFT that reads an adapter, by its ``adapter_config.json``;
    None where unknown.
    """
    oldest = PEFT_THAT_READS.get(str(config.get("peft_type")))
    return _TRAINED_ROWS if oldest and config.get("trainable_token_indices") else oldest
