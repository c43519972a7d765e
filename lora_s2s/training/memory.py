"""Memory: its peak, micro-batches halved when it runs out, and the error if that does not help.

S source length, T target length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lora_s2s.console import warn
from lora_s2s.data.collate import Batch
from lora_s2s.errors import ResourceError, ran_out_of_memory
from lora_s2s.fast_t5.choose import with_layout
from lora_s2s.machine import peak_memory
from lora_s2s.tokens.labels import IGNORE_INDEX
from lora_s2s.training.sharding import is_sharded

_WARNED = "_warned_of_halves"


def peak_memory_bytes(device: torch.device) -> int:
    """Peak so far in bytes: allocated on a GPU, else resident in this process; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory()


class Attempt:
    """One pass over a step's micro-batches; running out of memory ends it without an error.

    ``too_large`` is then the index of the micro-batch that did not fit.

    Raises:
        ResourceError: that micro-batch is a single row.
    """

    def __init__(self, batches: Sequence[Batch], *, may_split: bool = True) -> None:
        self._batches, self._may_split = batches, may_split
        self._current: int | None = None
        self.too_large: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        for place, batch in enumerate(self._batches):
            self._current = place
            yield batch

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None or self._current is None or not self._may_split:
            return False
        if not ran_out_of_memory(error):
            return False
        batch = self._batches[self._current]
        if len(batch.labels_BT) == 1:
            size = f"{batch.source_tokens} source and {batch.target_tokens} target tokens"
            raise ResourceError(
                f"out of memory while training, with one row of {size}",
                hint="lower data.max_source_tokens, or set training.gradient_checkpointing=true "
                "or model.quantization=nf4; lora-s2s plan shows what each of them saves and costs",
            ) from error
        self.too_large = self._current
        return True


def halving_when_out_of_memory(
    model: nn.Module, micro_batches: Sequence[Batch]
) -> Iterator[Attempt]:
    """Yields attempts at a step until one fits in memory, halving the micro-batch that did not.

    >>> for attempt in halving_when_out_of_memory(model, micro_batches):  # doctest: +SKIP
    ...     with attempt:
    ...         for batch in attempt:
    ...             sequence_loss(model, batch)[0].backward()
    """
    batches = list(micro_batches)
    while True:
        # Processes that gather weights from each other take equally many micro-batches.
        attempt = Attempt(batches, may_split=not is_sharded(model))
        yield attempt
        place = attempt.too_large
        if place is None:
            return
        _warn_once(model, rows=len(batches[place].labels_BT))
        # The failed pass has added some gradients, and which of them is unknown.
        model.zero_grad(set_to_none=True)
        batches[place : place + 1] = halves(model, batches[place])
        torch.cuda.empty_cache()


def _warn_once(model: nn.Module, *, rows: int) -> None:
    if not getattr(model, _WARNED, False):
        setattr(model, _WARNED, True)
        warn(
            f"out of memory with a micro-batch of {rows} rows: splitting it in halves, here and "
            "wherever it happens again; half the training.tokens_per_batch with twice the "
            "training.gradient_accumulation trains the same, faster"
        )


def halves(model: nn.Module, batch: Batch) -> list[Batch]:
    """Splits a micro-batch of several rows in two, each no wider than its longest row."""
    rows = len(batch.labels_BT)
    memory: dict[int, Tensor] = {}
    if batch.memory_ND is not None:
        lengths = list(batch.layout.source_lengths)
        states = torch.split(batch.memory_ND, lengths)
        memory = dict(zip(batch.layout.row_order, states, strict=True))
    parts = []
    for first, last in ((0, rows // 2), (rows // 2, rows)):
        mask_BS, labels_BT = batch.attention_mask_BS[first:last], batch.labels_BT[first:last]
        source, target = _width(mask_BS != 0), _width(labels_BT != IGNORE_INDEX)
        input_ids_BS = batch.input_ids_BS[first:last, :source]
        part = Batch(input_ids_BS, mask_BS[:, :source], labels_BT[:, :target])
        part = with_layout(model, part)
        if memory:
            part.memory_ND = torch.cat([memory[first + row] for row in part.layout.row_order])
        parts.append(part)
    return parts


def _width(used: Tensor) -> int:
    """Number of columns up to the last one used in any row."""
    return int(used.any(0).nonzero().max()) + 1
