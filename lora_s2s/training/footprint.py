"""What a micro-batch takes in memory, by arithmetic: no weight is loaded and nothing is computed.

The numbers of values that a layer keeps for its backward pass were counted with torch's hooks for
saved tensors, for each kind of forward; ``benchmarks/plan.py`` compares the sums with real runs.

Legend: N source and M target tokens, n rows of a group, H heads, d model width, f inner width of
the feed-forward, a width of all heads together, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora_s2s.fast_t5.choose import MOST_OF_LONG, TOKENS_COMPARED
from lora_s2s.fast_t5.head import LOGITS_AT_ONCE
from lora_s2s.fast_t5.layout import WORTH_A_CALL, grouped

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a base that decide what a token takes; ``kind`` is that of its forward."""

    hidden: int
    inner: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    attention: int
    vocabulary: int
    gated: bool
    kind: str


@dataclass(frozen=True)
class Adapted:
    """The adapted layers.

    Attributes:
        first: stack → its first block with an adapter; what lies below it keeps nothing.
        ranks: stack → what adapters keep a token and block in our forward; ``cross`` of source
            tokens in the decoder.
        inputs: the same in transformers' forward, by bytes of a value: in 16 bits PEFT makes a
            float32 copy for each adapter.
        outputs: whether the attention's output layers are adapted.
    """

    first: Mapping[str, int]
    ranks: Mapping[str, float]
    inputs: Mapping[int, Mapping[str, float]]
    outputs: bool

    def blocks(self, stack: str, layers: int) -> int:
        """How many blocks of a stack keep values for the backward pass."""
        if stack == "decoder" and "encoder" in self.first:
            return layers
        return layers - self.first.get(stack, layers)


@dataclass(frozen=True)
class Kept:
    """How many values a kind of forward keeps: norms of a block (encoder, decoder), values of each
    and copies of the attention's scores by bytes per value, and of the feed-forward (gated, plain).
    """

    norms: tuple[int, int]
    each_norm: Mapping[int, int]
    feed_forward: tuple[int, int]
    scores: Mapping[int, int]


_ONCE, _NEVER = {4: 1, 2: 1}, {4: 0, 2: 0}
KINDS = {
    "fast": Kept((2, 3), _ONCE, (2, 1), _NEVER),
    "t5": Kept((2, 3), {4: 1, 2: 3}, (3, 1), _ONCE),
    "bart": Kept((2, 3), _ONCE, (2, 1), _NEVER),
    "t5gemma": Kept((4, 6), {4: 1, 2: 2}, (3, 1), {4: 2, 2: 4}),
}
# transformers' activation of Flan-T5 is eight operations where it is not fused.
_UNFUSED = 3


@dataclass(frozen=True)
class Setting:
    """What of a run decides its memory: bytes of a value, device, checkpointing, dropout."""

    bytes_each: int
    device: str
    checkpointing: bool
    dropout: bool
    largest_weight: int = 0
    """Values of the largest quantized weight, which is dequantised for its product."""


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak of a step: what waits for the backward pass, logits, and temporaries."""

    kept: float
    logits: float
    temporary: float

    @property
    def total(self) -> float:
        """All together."""
        return self.kept + self.logits + self.temporary


@dataclass(frozen=True)
class Batch:
    """The tokens of a micro-batch: real ones, as padded for attention, and scores of a head."""

    rows: int
    source: int
    target: int
    padded_source: int
    padded_target: int
    encoder_scores: int
    other_scores: int
    biases: int

    @classmethod
    def of(cls, sources: Lengths, targets: Lengths, device: str) -> Batch:
        """From each row's lengths; groups rows as the forward does."""
        order = np.lexsort((-targets, -sources))
        sources, targets = sources[order], targets[order]
        groups = grouped(sources.tolist(), targets.tolist(), WORTH_A_CALL[device])
        padded_source = padded_target = encoder = other = 0
        biases = int(sources.max()) ** 2 + 2 * int(targets.max()) ** 2
        for rows in groups:
            count, wide, long = rows.stop - rows.start, sources[rows].max(), targets[rows].max()
            padded_source, padded_target = (
                padded_source + count * wide,
                padded_target + count * long,
            )
            encoder, other = encoder + count * wide**2, other + count * long * (long + wide)
            # A group with padding has its own bias: one for each of its rows.
            biases += count * wide**2 if (sources[rows] < wide).any() else 0
        numbers = (padded_source, padded_target, encoder, other, biases)
        totals = len(sources), int(sources.sum()), int(targets.sum())
        return cls(*totals, *map(int, numbers))


def step_peak(batch: Batch, sizes: Sizes, adapted: Adapted, setting: Setting) -> Peak:
    """The peak of a training step over what the run holds in any case."""
    each, kind = setting.bytes_each, KINDS[sizes.kind]
    encoder, decoder = _block_values(batch, sizes, adapted, setting)
    blocks = [
        adapted.blocks("encoder", sizes.encoder_layers),
        adapted.blocks("decoder", sizes.decoder_layers),
    ]
    shared = sizes.heads * batch.biases * (sizes.kind == "fast") + 2 * batch.source * sizes.hidden
    dropped = sizes.heads * (2 * batch.encoder_scores + 2 * batch.other_scores) * setting.dropout
    below, above = encoder * blocks[0], decoder * blocks[1] + 2 * batch.target * sizes.hidden
    if setting.checkpointing:
        below, above = (
            batch.source * sizes.hidden * blocks[0],
            batch.target * sizes.hidden * blocks[1],
        )
    recomputed = (encoder, decoder) if setting.checkpointing else (0, 0)
    inner = (3 if sizes.gated else 2) * sizes.inner + 3 * sizes.hidden
    backward = [
        tokens * inner + again
        for tokens, again in zip((batch.source, batch.target), recomputed, strict=True)
    ]
    in_products = setting.device == "cpu" and each == 2 and kind is KINDS["fast"]
    if in_products:
        backward[0] += 3 * sizes.heads * batch.encoder_scores
    weight = setting.largest_weight
    logits = _logits(batch.target, sizes, setting)
    # The loss, the first block of the backward pass (the decoder's last), the encoder's last.
    moments = (
        Peak(each * (shared + dropped + below + above), logits, 0.0),
        Peak(each * (shared + dropped + below + above), 0.0, each * (backward[1] + weight)),
        Peak(each * (shared + dropped + below), 0.0, each * (backward[0] + weight)),
    )
    return max(moments, key=lambda peak: peak.total)


def _block_values(
    batch: Batch, sizes: Sizes, adapted: Adapted, setting: Setting
) -> tuple[float, float]:
    """Values that a block of the encoder and one of the decoder keep."""
    each, kind = setting.bytes_each, KINDS[sizes.kind]
    fast = sizes.kind == "fast"
    own = adapted.ranks if fast else adapted.inputs[each]
    norm, ffn = (
        kind.each_norm[each] * sizes.hidden,
        kind.feed_forward[not sizes.gated] * sizes.inner,
    )
    # A CPU's attention in 16 bits keeps no output.
    parts = 3 if fast and each == 2 and setting.device == "cpu" and not adapted.outputs else 4
    flat = fast and adapted.outputs
    wide, long = sizes.attention * batch.padded_source, sizes.attention * batch.padded_target
    encoder = batch.source * (kind.norms[0] * norm + ffn + own.get("encoder", 0))
    encoder += parts * wide + flat * sizes.attention * _padding_copy(
        batch.source, batch.padded_source
    )
    decoder = batch.target * (kind.norms[1] * norm + ffn + own.get("decoder", 0))
    decoder += batch.source * own.get("cross", 0) + 2 * wide + (parts + parts - 2) * long
    decoder += 2 * flat * sizes.attention * _padding_copy(batch.target, batch.padded_target)
    scores = float(kind.scores[each] * sizes.heads)
    if sizes.kind != "t5gemma" and batch.source == batch.padded_source:
        scores /= batch.rows  # T5's bias of a layer: one for all rows where none is padded
    return encoder + scores * batch.encoder_scores, decoder + scores * batch.other_scores


def _padding_copy(tokens: int, padded: int) -> int:
    """Tokens of the copy without padding that an adapter on the attention's output keeps."""
    return tokens if padded > tokens else 0


def _logits(target: int, sizes: Sizes, setting: Setting) -> float:
    """The head's chunk: logits and their log-softmax in float32, and in 16 bits both again."""
    if sizes.kind in ("t5gemma", "bart"):
        return float(target * sizes.vocabulary * (3 * 4 + (setting.bytes_each == 2) * 2))
    values = min(target * sizes.vocabulary, LOGITS_AT_ONCE[setting.device])
    return float(values * (8 + 2 * setting.bytes_each * (setting.bytes_each == 2)))


def comparison_peak(
    sources: Lengths, targets: Lengths, sizes: Sizes, adapted: Adapted, setting: Setting
) -> float:
    """The peak of the first batch's comparison with transformers' forward, which keeps more values
    and recomputes none; 0 for a base that is not compared.
    """
    if sizes.kind != "fast":
        return 0.0
    few = np.argsort(sources + targets, kind="stable")
    most = TOKENS_COMPARED[setting.checkpointing]
    count = max(1, int((np.cumsum((sources + targets)[few]) <= most).sum()))
    sources, targets = sources[few[:count]], targets[few[:count]]
    if setting.checkpointing:
        sources, targets = (np.minimum(side, MOST_OF_LONG[True]) for side in (sources, targets))
    wide = count * int(sources.max()), count * int(targets.max())
    squares = count * int(sources.max()) ** 2, wide[1] * int(sources.max() + targets.max())
    # transformers' forward computes padding too.
    batch = Batch(count, wide[0], wide[1], *wide, *squares, 0)
    theirs = Sizes(**{**vars(sizes), "kind": "t5"})
    encoder, decoder = _block_values(batch, theirs, adapted, setting)
    unfused = _UNFUSED * sizes.inner * sizes.gated
    encoder, decoder = encoder + wide[0] * unfused, decoder + wide[1] * unfused
    blocks = [
        adapted.blocks("encoder", sizes.encoder_layers),
        adapted.blocks("decoder", sizes.decoder_layers),
    ]
    logits = 3 * wide[1] * sizes.vocabulary
    kept = encoder * blocks[0] + decoder * blocks[1] + logits + setting.largest_weight
    return float(setting.bytes_each * kept)


def decoding_bytes(
    sizes: Sizes, *, batch_tokens: int, rows: int, answer: int, bytes_each: int
) -> float:
    """Keys and values of the decoder while a batch is decoded, and the logits of a step.

    Args:
        rows: answers decoded at once, those of beams included.
    """
    keys = 2 * sizes.attention * sizes.decoder_layers * (batch_tokens + rows * answer)
    encoder = batch_tokens * (3 * sizes.inner + 4 * sizes.hidden)
    return bytes_each * (keys + encoder) + 8.0 * rows * sizes.vocabulary


def largest(batches: Sequence[Sequence[int]], sources: Lengths, targets: Lengths) -> list[Lengths]:
    """The rows of the micro-batches that may take the most memory: most tokens, or longest rows."""
    rows = [np.asarray(batch, dtype=np.int64) for batch in batches]
    tokens = [float(sources[some].sum() + 1.75 * targets[some].sum()) for some in rows]
    squares = [float((sources[some] ** 2).sum()) for some in rows]
    chosen = {*np.argsort(tokens)[-4:].tolist(), *np.argsort(squares)[-2:].tolist()}
    return [rows[place] for place in sorted(chosen)]
