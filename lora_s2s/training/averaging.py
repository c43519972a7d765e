"""An exponential moving average of the weights that train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lora_s2s.models.sharded import own_part
from lora_s2s.training.optimizer import trainable


class WeightAverage:
    """After each step, average ← d · average + (1 - d) · weights, in the weights' own precision.

    d is the decay, and (1 + step) / (10 + step) as long as that is less, so that a short run
    forgets its start too. Factors of a product are averaged, not the product.

    Args:
        model: its trainable weights are the average's start.
        decay: at least 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._averages = [weight.detach().clone() for weight in self._weights()]

    def _weights(self) -> list[Tensor]:
        return [own_part(weight.detach()) for weight in trainable(self._model).values()]

    def update(self, step: int) -> None:
        """Adds the weights after a step, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._weights(), 1 - decay)

    def take(self) -> None:
        """Makes the model's weights the average."""
        torch._foreach_copy_(self._averages, self._weights())

    def put(self) -> None:
        """Makes the average the model's weights."""
        torch._foreach_copy_(self._weights(), self._averages)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Has the model compute with the average while entered; its weights come back exactly."""
        kept = [weight.clone() for weight in self._weights()]
        self.put()
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights(), kept)
