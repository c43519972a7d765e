"""The engine that runs transformers' ``generate``: any family, with or without an adapter.

Legend: B batch, S source length, T target length; ``_BS`` and ``_BT`` name the axes of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lora_s2s.errors import ResourceError, ran_out_of_memory
from lora_s2s.inference.engine import DecodingSettings, Engine, Watch
from lora_s2s.lora.adapter import ONLY
from lora_s2s.lora.several import BASE, mixes
from lora_s2s.models.generation import answer_ids, decoding_config, only
from lora_s2s.models.loading import quiet
from lora_s2s.models.logits import finite_logits
from lora_s2s.models.sampling import Sampling


@dataclass(frozen=True)
class TorchEngine:
    """A model in torch; ``name`` is for messages.

    ``has_adapter``: PEFT wraps the model, ``adapter`` is PEFT's name of the one it answers with,
    and ``adapter_on`` says whether it does; ``mixed`` are the names of each row of one batch.
    """

    name: str
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    has_adapter: bool = False
    adapter_on: bool = True
    adapter: str = ONLY
    mixed: tuple[str, ...] = ()
    runtime: str = "torch"

    def without_adapter(self) -> TorchEngine:
        """Returns the same model with its adapter switched off, without a second copy."""
        return replace(self, adapter_on=False)

    def mixes_with(self, other: Engine) -> bool:
        """Whether one batch may hold rows of both: of adapters and the base in one model."""
        if not isinstance(other, TorchEngine) or other.model is not self.model:
            return False
        return self == other or mixes(self.model)

    def mixing(self, engines: Sequence[Engine]) -> TorchEngine:
        """Returns the engine of a batch whose rows are answered as by each of ``engines``."""
        names = [
            engine.adapter if engine.adapter_on else BASE
            for engine in engines
            if isinstance(engine, TorchEngine)
        ]
        return replace(self, adapter_on=True, mixed=tuple(names))

    @contextmanager
    def ready(self) -> Iterator[PreTrainedModel]:
        """Yields the model in evaluation mode, without gradients, its adapter on or off."""
        self.model.eval()
        off = self.has_adapter and not self.adapter_on
        switch = self.model.disable_adapter() if off else nullcontext()
        if self.has_adapter and self.model.active_adapter != self.adapter:
            self.model.set_adapter(self.adapter, inference_mode=True)
        with torch.inference_mode(), switch:
            yield self.model

    def inputs(self, sources: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Returns ``input_ids`` and ``attention_mask`` (B, S), padded on the right."""
        device = next(self.model.parameters()).device
        rows = [torch.tensor(list(source), dtype=torch.long) for source in sources]
        pad = self.tokenizer.pad_token_id
        input_ids_BS = pad_sequence(rows, batch_first=True, padding_value=pad)
        mask_BS = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return {"input_ids": input_ids_BS.to(device), "attention_mask": mask_BS.to(device)}

    def answers(
        self, sources: Sequence[Sequence[int]], settings: DecodingSettings
    ) -> list[list[int]]:
        """See :class:`Engine`; ``early_stopping`` is off by default.

        Raises:
            DataError: the model's logits are not finite.
        """
        return self._generate(sources, settings, [])

    def watched_answers(
        self, sources: Sequence[Sequence[int]], settings: DecodingSettings, watch: Watch
    ) -> list[list[int]]:
        """See :class:`WatchedEngine`."""
        watching = _Watching(watch, len(sources), self.tokenizer.eos_token_id)
        answers = self._generate(sources, settings, [watching])
        # Padding follows an answer that was ended early.
        return [ids[:length] for ids, length in zip(answers, watching.lengths, strict=True)]

    def _generate(
        self,
        sources: Sequence[Sequence[int]],
        settings: DecodingSettings,
        criteria: list[StoppingCriteria],
    ) -> list[list[int]]:
        inputs = self.inputs(sources)
        config = decoding_config(self.model, self.tokenizer, settings.changed())
        processors = finite_logits(self.name)
        if settings.temperature > 0:
            sampling = Sampling(
                sources,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=settings.seed,
            )
            processors.append(sampling)
        mixed: dict[str, Any] = {}
        if self.mixed:  # PEFT reads the beams here only
            mixed = {"adapter_names": list(self.mixed), "num_beams": settings.num_beams}
        try:
            with self.ready() as model, only(model, config), quiet():
                output_BT = model.generate(
                    **inputs,
                    generation_config=config,
                    logits_processor=processors,
                    stopping_criteria=StoppingCriteriaList(criteria),
                    **mixed,
                )
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            size = (
                f"{len(sources)} sources of up to {inputs['input_ids'].shape[1]} tokens with "
                f"{settings.num_beams} beam(s)"
            )
            hint = f"--set evaluation.batch_tokens={max(1, settings.batch_tokens // 2)}"
            raise ResourceError(f"out of memory decoding {size}", hint=hint) from error
        return answer_ids(output_BT, self.tokenizer.eos_token_id)


class _Watching(StoppingCriteria):  # type: ignore[misc]
    """Passes a greedy batch's ids on after each step; ``lengths`` are those of the answers."""

    def __init__(self, watch: Watch, rows: int, end: int) -> None:
        self._watch, self._end = watch, end
        self.lengths = [0] * rows
        self._ended = [False] * rows

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:  # noqa: ARG002  (what transformers calls it with)
        for row, ids in enumerate(input_ids[:, 1:].tolist()):
            if not self._ended[row]:
                self.lengths[row] = len(ids)
                self._ended[row] = self._watch(row, ids) or ids[-1] == self._end
        return torch.tensor(self._ended, device=input_ids.device)
