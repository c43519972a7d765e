"""How much work a training step needs, and how fast this machine could do it."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import torch

from lora_s2s.fast_t5.products import product

Numbers = npt.NDArray[np.int64]

# Rows, inner size and columns of products that reach a CPU's peak, and a GPU's.
_PRODUCTS = {
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 768, 2048)),
    "cuda": ((8192, 8192, 8192), (16384, 4096, 4096)),
}
_REPETITIONS = 5


def needed_flops(
    sizes: tuple[int, int, int, int, int, int], sources: Numbers, targets: Numbers, *, rank: int
) -> float:
    """Returns the floating-point operations that a LoRA step on q and v of a gated T5 needs for its
    real tokens.

    Matrix products alone, forward and backward, a multiply-add as two: what no implementation can
    leave out. A frozen linear layer is one product forward and one back to its input; a factor of
    LoRA takes a third, for its own gradient. Attention takes two products forward and four back, of
    each query with the keys it may see. In block 0 of each stack nothing below the adapters needs a
    gradient: q, k and v send none to their input, and k needs none.

    Args:
        sizes: d_model, d_ff, layers of each stack, heads, d_kv, vocabulary.
        sources: tokens of each row's source.
        targets: tokens of each row's target.
        rank: of the adapters on q and v of all three kinds of attention.
    """
    d_model, d_ff, layers, heads, d_kv, vocabulary = sizes
    inner = heads * d_kv
    source, target = float(sources.sum()), float(targets.sum())
    linear, feed_forward, factors = d_model * inner, 3 * d_model * d_ff, rank * (d_model + inner)
    # The cross-attention's k and v work on source tokens, its q and o on target tokens.
    frozen = source * (6 * linear + feed_forward) + target * (6 * linear + feed_forward)
    adapters = source * 3 * factors + target * 3 * factors
    seen_by_source = float((sources**2).sum())
    seen_by_target = float((targets * (targets + 1) / 2).sum())
    pairs = seen_by_source + seen_by_target + float((sources * targets).sum())
    layer = 2 * frozen + 3 * adapters + 6 * inner * pairs
    head = 2 * target * d_model * vocabulary
    spared = (source + target) * (3 * linear + 2 * rank * d_model) + inner * (
        seen_by_source + seen_by_target
    )
    return 2 * (layers * layer + head - spared)


def matrix_peak(device: str, dtype: str) -> float:
    """Returns the best GFLOP/s of large products, by torch's library or ours, on a CPU with the
    threads in use.
    """
    best = max(_product(*sizes, device, getattr(torch, dtype)) for sizes in _PRODUCTS[device])
    if device == "cuda":
        torch.cuda.empty_cache()  # what comes next runs in other processes and needs the room
    return best


def _product(rows: int, inner: int, columns: int, device: str, dtype: torch.dtype) -> float:
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(inner, columns, device=device).to(dtype)
    seconds = []
    weight = right.t().contiguous()
    for _ in range(_REPETITIONS):
        for multiply in (lambda: left @ right, lambda: product(left, weight)):
            began = _now(device)
            multiply()
            seconds.append(_now(device) - began)
    return 2e-9 * rows * inner * columns / min(seconds)


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
