"""The sizes of popular bases, as their ``config.json`` states them: for planning a run with a base
that is not on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Settings = Mapping[str, object]

_T5_NAMES = "d_model", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "d_kv"
_BART_NAMES = "d_model", "encoder_ffn_dim", "encoder_layers", "encoder_attention_heads"


def _t5(
    sizes: tuple[int, int, int, int, int, int],
    vocabulary: int = 32128,
    *,
    kind: str = "t5",
    gated: bool = True,
) -> Settings:
    """A T5-shaped config; those with a gated feed-forward have a head of their own."""
    return {
        "model_type": kind,
        **dict(zip(_T5_NAMES, sizes, strict=True)),
        "vocab_size": vocabulary,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "tie_word_embeddings": not gated,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
    }


def _bart(kind: str, sizes: tuple[int, int, int, int], vocabulary: int, positions: int) -> Settings:
    named = dict(zip(_BART_NAMES, sizes, strict=True))
    decoder = {name.replace("encoder", "decoder"): value for name, value in named.items()}
    return {
        "model_type": kind,
        **named,
        **decoder,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "is_encoder_decoder": True,
    }


_V1_1 = {
    "small": (512, 1024, 8, 8, 6, 64),
    "base": (768, 2048, 12, 12, 12, 64),
    "large": (1024, 2816, 24, 24, 16, 64),
    "xl": (2048, 5120, 24, 24, 32, 64),
    "xxl": (4096, 10240, 24, 24, 64, 64),
}
_V1_0 = {
    "small": (512, 2048, 6, 6, 8, 64),
    "base": (768, 3072, 12, 12, 12, 64),
    "large": (1024, 4096, 24, 24, 16, 64),
    "3b": (1024, 16384, 24, 24, 32, 128),
    "11b": (1024, 65536, 24, 24, 128, 128),
}
_BYT5 = {
    "small": (1472, 3584, 12, 4, 6, 64),
    "base": (1536, 3968, 18, 6, 12, 64),
    "large": (1536, 3840, 36, 12, 16, 64),
    "xl": (2560, 6720, 36, 12, 32, 64),
    "xxl": (4672, 12352, 36, 12, 64, 64),
}
_LARGE = (1024, 4096, 12, 16)
_LARGER = (1024, 8192, 24, 16)

KNOWN: Mapping[str, Settings] = {
    **{f"google/flan-t5-{size}": _t5(sizes) for size, sizes in _V1_1.items()},
    **{f"google/t5-v1_1-{size}": _t5(sizes) for size, sizes in _V1_1.items()},
    **{f"google/mt5-{size}": _t5(sizes, 250112, kind="mt5") for size, sizes in _V1_1.items()},
    **{
        f"google/umt5-{size}": _t5(_V1_1[size], 256384, kind="umt5")
        for size in ("small", "base", "xl", "xxl")
    },
    **{f"google/byt5-{size}": _t5(sizes, 384) for size, sizes in _BYT5.items()},
    **{f"google-t5/t5-{size}": _t5(sizes, gated=False) for size, sizes in _V1_0.items()},
    "lmsys/fastchat-t5-3b-v1.0": _t5(_V1_1["xl"], 32110),
    "Salesforce/codet5-small": _t5(_V1_0["small"], 32100, gated=False),
    "Salesforce/codet5-base": _t5(_V1_0["base"], 32100, gated=False),
    "Salesforce/codet5p-220m": _t5(_V1_0["base"], 32100, gated=False),
    "Salesforce/codet5p-770m": _t5(_V1_0["large"], 32100, gated=False),
    "facebook/bart-base": _bart("bart", (768, 3072, 6, 12), 50265, 1024),
    "facebook/bart-large": _bart("bart", _LARGE, 50265, 1024),
    "facebook/bart-large-cnn": _bart("bart", _LARGE, 50264, 1024),
    "facebook/mbart-large-50": _bart("mbart", _LARGE, 250054, 1024),
    "facebook/m2m100_418M": _bart("m2m_100", _LARGE, 128112, 1024),
    "facebook/m2m100_1.2B": _bart("m2m_100", _LARGER, 128112, 1024),
    "facebook/nllb-200-distilled-600M": _bart("m2m_100", _LARGE, 256206, 1024),
    "facebook/nllb-200-distilled-1.3B": _bart("m2m_100", _LARGER, 256206, 1024),
    "facebook/nllb-200-1.3B": _bart("m2m_100", _LARGER, 256206, 1024),
    "facebook/nllb-200-3.3B": _bart("m2m_100", (2048, 8192, 24, 16), 256206, 1024),
    "google/pegasus-large": _bart("pegasus", (1024, 4096, 16, 16), 96103, 1024),
}
_OLD_T5 = re.compile(r"t5-(small|base|large|3b|11b)")


def known_settings(name: str) -> Settings | None:
    """The config of a popular base by its hub id; None for any other."""
    return KNOWN.get(f"google-t5/{name}" if _OLD_T5.fullmatch(name) else name)
