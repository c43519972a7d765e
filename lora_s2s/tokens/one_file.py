"""A tokenizer that ``tokenizer.json`` alone defines."""

from __future__ import annotations

import transformers


class PreTrainedTokenizerFast(transformers.PreTrainedTokenizerFast):  # type: ignore[misc]
    """A tokenizer read from ``tokenizer.json`` as it stands, saved under the name that transformers
    4 knows as well.
    """
