"""How long a training step takes: its products, over the speed of this device's products, and the
values that it passes through memory, over the speed of that.

Legend: N source and M target tokens, d model width, f inner width.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lora_s2s.fast_t5.products import product
from lora_s2s.training.footprint import Lengths, Sizes

# The share of the probe's speed that a step's products reach: fitted on CPUs, as all below
# (benchmarks/plan.py), assumed on a GPU.
SHARES = {"cpu": {4: 0.86, 2: 0.71}, "cuda": {4: 0.5, 2: 0.4}}
_HF_SHARE = 0.6  # transformers' forward, over ours
# Passes of the probe that these take: a score's bias and softmax; a value of a block (norms,
# activations, sums); a weight of an adapter, whose products are narrow, for a token; a weight to
# dequantise. Fitted on CPUs, assumed on a GPU.
_PASSES = {"cpu": (5.3, 0.5, 0.29, 1.2), "cuda": (0.37, 0.23, 0.0154, 0.185)}
# A block of the decoder also attends to the sources: what it takes, over one of the encoder.
_DECODER = 1.6
# What the host takes for one operation, and how many a block takes, forward and backward.
_OPERATION, _OPERATIONS = 12e-6, 130
_SECONDS, _REPEATS = 2.0, 5
_PASSED = 2**22  # values of a tensor, more than caches hold
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


@dataclass(frozen=True)
class Load:
    """What training on some rows takes: FLOP of products, and values that pass through memory."""

    flop: float
    values: float


def step_load(
    work: Work,
    sizes: Sizes,
    sources: Lengths,
    targets: Lengths,
    *,
    device: str,
    checkpointing: bool,
    dequantized: float = 0,
) -> Load:
    """What training once on these rows takes.

    Args:
        dequantized: micro-batches for which all weights are dequantised in every pass.
    """
    source, target = float(sources.sum()), float(targets.sum())
    forward = source * (work.encoder + work.cross) + target * work.decoder
    backward = target * work.decoder
    backward += source * (work.encoder + work.cross) if work.encoder_trains else 0
    pairs_below = float((sources.astype(np.float64) ** 2).sum()) * sizes.encoder_layers
    pairs_above = float((targets * (targets + sources)).sum()) * sizes.decoder_layers
    pairs = pairs_below + pairs_above
    again = 1 if checkpointing else 0
    head = 2 * target * sizes.hidden * sizes.vocabulary
    products = forward * (1 + again) + backward + 2 * sizes.attention * pairs * (3 + again) + head
    blocks = source * sizes.encoder_layers + _DECODER * target * sizes.decoder_layers
    of_score, of_value, of_narrow, of_dequantized = _PASSES[device]
    values = of_value * blocks * (sizes.hidden + sizes.inner) + of_score * sizes.heads * pairs
    narrow = of_narrow * work.adapters * (source + target) / 2
    weights = of_dequantized * (work.encoder + work.decoder + work.cross) * dequantized
    return Load(2 * products, values * (3 + again) + 3 * narrow + weights * (2 + again))


@dataclass(frozen=True)
class Speed:
    """A device's speed in a dtype.

    Attributes:
        flop: FLOP a second of matrix products.
        values: a second, in products of two tensors value by value, which memory bounds.
        bfloat16: whether products in bfloat16 are clearly faster; None if not tried.
    """

    flop: float
    values: float
    bfloat16: bool | None = None


def step_seconds(
    load: Load, sizes: Sizes, speed: Speed, *, device: str, bytes_each: int, batches: float
) -> float:
    """Seconds for so much in so many micro-batches."""
    ours = 1 if sizes.kind == "fast" else _HF_SHARE
    computing = load.flop / (speed.flop * SHARES[device][bytes_each]) + load.values / speed.values
    blocks = sizes.encoder_layers + _DECODER * sizes.decoder_layers
    return computing / ours + batches * blocks * _OPERATIONS * _OPERATION


def probe(sizes: Sizes, rows: int, dtype: torch.dtype, device: torch.device) -> Speed:
    """Measures this device for at most two seconds, at the base's own widths.

    On a CPU also whether bfloat16 is at least twice as fast as float32. Draws no numbers of the
    global random state.

    Args:
        rows: tokens of a micro-batch.
    """
    given = max(32, min(rows, 4096))
    shape = given, min(sizes.hidden, 4096), min(sizes.inner, 8192)
    rates: list[float] = []
    passes: list[float] = []
    ratios: list[float] = []
    began = time.perf_counter()
    on_cpu = device.type == "cpu"
    while len(rates) < _REPEATS and (not rates or time.perf_counter() - began < _SECONDS):
        rates.append(_rate(shape, dtype, device))
        passes.append(_passed(dtype, device))
        if on_cpu and dtype is torch.float32:
            ratios.append(_rate(shape, torch.bfloat16, device) / rates[-1])
    faster = min(ratios) >= _CLEARLY_FASTER if len(ratios) >= 3 else None
    # Other work on the machine only slows some down.
    return Speed(max(rates), max(passes), faster)


def _rate(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    """FLOP a second of products."""
    rows, inner, outer = shape
    inputs = torch.full((rows, inner), 0.5, dtype=dtype, device=device)
    weight = torch.full((outer, inner), 0.25, dtype=dtype, device=device)

    def there_and_back() -> None:
        product(product(inputs, weight), weight.t()).clamp_(-1, 1)

    return _per_second(there_and_back, 4 * rows * inner * outer, device)


def _passed(dtype: torch.dtype, device: torch.device) -> float:
    """Values a second of products of two tensors value by value."""
    left, right, outputs = torch.full((3, _PASSED), 0.5, dtype=dtype, device=device)
    return _per_second(lambda: torch.mul(left, right, out=outputs), _PASSED, device)


def _per_second(work: Callable[[], object], amount: int, device: torch.device) -> float:
    """How much is done in a second by work that does ``amount`` at once."""
    work()
    _wait(device)
    began, done = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < 0.05:
        work()
        _wait(device)
        done += amount
    return done / seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
