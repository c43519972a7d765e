"""How long a training step takes: the products it needs, over the speed of this device's products.

Legend: N source and M target tokens, d model width, f inner width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from lora_s2s.fast_t5.products import product
from lora_s2s.training.footprint import Lengths, Sizes

# The share of the probe's speed that a step's products reach: fitted on a CPU, as all below
# (benchmarks/plan.py), assumed on a GPU.
SHARES = {"cpu": {4: 0.87, 2: 0.75}, "cuda": {4: 0.5, 2: 0.4}}
_HF_SHARE = 0.6  # transformers' forward, over ours
# Bound by memory are a score's bias and softmax, a value of a block (norms, activations, sums), and
# an adapter's narrow products: multiplications that take as long as one of each.
_SCORE, _VALUE, _NARROW = 120, 75, 5
# Quantized weights are dequantised for every pass: FLOP of products that take as long as a value.
_DEQUANTIZED = 120.0
# A block of the decoder also attends to the sources: what it takes, over one of the encoder.
_DECODER = 1.6
# What the host takes for one operation, and how many a block takes, forward and backward.
_OPERATION, _OPERATIONS = 12e-6, 130
_SECONDS, _REPEATS = 2.0, 5
# Products in bfloat16 count as faster only if each of the repeated comparisons says so.
_CLEARLY_FASTER = 2.0


@dataclass(frozen=True)
class Work:
    """Weights that tokens pass, adapters' too, by stack; whether gradients reach the encoder.

    Attributes:
        encoder, decoder, cross: of linear layers that source tokens, target tokens, and source
            tokens on their way to the decoder pass.
        adapters: of the adapters, a pair's two factors together.
    """

    encoder: int
    decoder: int
    cross: int
    adapters: int
    encoder_trains: bool


def step_flop(
    work: Work, sizes: Sizes, sources: Lengths, targets: Lengths, *, checkpointing: bool
) -> float:
    """Floating-point operations of training on these rows: matrix products, and what takes as long
    as some.
    """
    source, target = float(sources.sum()), float(targets.sum())
    forward = source * (work.encoder + work.cross) + target * work.decoder
    backward = target * work.decoder
    backward += source * (work.encoder + work.cross) if work.encoder_trains else 0
    pairs_below = float((sources.astype(np.float64) ** 2).sum()) * sizes.encoder_layers
    pairs_above = float((targets * (targets + sources)).sum()) * sizes.decoder_layers
    pairs = (2 * sizes.attention + _SCORE * sizes.heads) * (pairs_below + pairs_above)
    again = 1 if checkpointing else 0
    head = 2 * target * sizes.hidden * sizes.vocabulary
    adapters = 3 * _NARROW * work.adapters * (source + target) / 2
    blocks = source * sizes.encoder_layers + _DECODER * target * sizes.decoder_layers
    values = _VALUE * blocks * (sizes.hidden + sizes.inner)
    passes = forward * (1 + again) + backward + adapters + (pairs + values) * (3 + again)
    return 2 * (passes + head)


def step_seconds(
    flop: float, sizes: Sizes, rate: float, *, device: str, bytes_each: int, batches: float
) -> float:
    """Seconds for so many operations in so many micro-batches, at ``rate`` FLOP a second."""
    share = SHARES[device][bytes_each] * (1 if sizes.kind == "fast" else _HF_SHARE)
    blocks = sizes.encoder_layers + _DECODER * sizes.decoder_layers
    return flop / (rate * share) + batches * blocks * _OPERATIONS * _OPERATION


def dequantizing_flop(weights: int, batches: float, *, checkpointing: bool) -> float:
    """What dequantising all weights for every pass takes, in FLOP."""
    return weights * _DEQUANTIZED * batches * (3 if checkpointing else 2)


@dataclass(frozen=True)
class Speed:
    """FLOP a second of products, in the dtype asked for and in bfloat16 (None if not tried)."""

    rate: float
    bfloat16: bool | None = None


def probe(sizes: Sizes, rows: int, dtype: torch.dtype, device: torch.device) -> Speed:
    """Measures this device's products for at most two seconds, at the base's own widths.

    On a CPU also whether bfloat16 is at least twice as fast as float32. Draws no numbers of the
    global random state.

    Args:
        rows: tokens of a micro-batch.
    """
    given = max(32, min(rows, 4096))
    shape = given, min(sizes.hidden, 4096), min(sizes.inner, 8192)
    rates: list[float] = []
    ratios: list[float] = []
    began = time.perf_counter()
    on_cpu = device.type == "cpu"
    while len(rates) < _REPEATS and (not rates or time.perf_counter() - began < _SECONDS):
        rates.append(_rate(shape, dtype, device))
        if on_cpu and dtype is torch.float32:
            ratios.append(_rate(shape, torch.bfloat16, device) / rates[-1])
    faster = min(ratios) >= _CLEARLY_FASTER if len(ratios) >= 3 else None
    return Speed(max(rates), faster)  # other work on the machine only slows some down


def _rate(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    rows, inner, outer = shape
    inputs = torch.full((rows, inner), 0.5, dtype=dtype, device=device)
    weight = torch.full((outer, inner), 0.25, dtype=dtype, device=device)
    outputs, flop = product(inputs, weight), 0.0
    _wait(device)
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < 0.05:
        outputs = product(inputs, weight)
        inputs = product(outputs, weight.t())
        inputs.clamp_(-1, 1)
        _wait(device)
        flop += 4.0 * rows * inner * outer
    return flop / seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
