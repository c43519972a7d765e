"""The engine of models in torch: any family, with or without an adapter.

T5-shaped models answer by our own decoder where it has the settings, all others by transformers'
``generate``.

Legend: B batch, S source length, T target length; ``_BS`` and ``_BT`` name the axes of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

from lora_s2s.errors import naming_out_of_memory
from lora_s2s.inference.constraint import constraint_of
from lora_s2s.inference.continuous import Continuous, supports
from lora_s2s.inference.engine import Answer, DecodingSettings, Engine, TokenIds, Watch
from lora_s2s.inference.fast_decoding import fast_decoder
from lora_s2s.lora.adapter import ONLY
from lora_s2s.lora.several import BASE, mixes
from lora_s2s.models.generation import answer_ids, decoding_config, only, start_id
from lora_s2s.models.loading import quiet
from lora_s2s.models.logits import Constrained, finite_logits
from lora_s2s.models.sampling import Sampling, generators_of


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

    def inputs(self, sources: TokenIds) -> dict[str, torch.Tensor]:
        """Returns ``input_ids`` and ``attention_mask`` (B, S), padded on the right."""
        device = next(self.model.parameters()).device
        rows = [torch.tensor(list(source), dtype=torch.long) for source in sources]
        pad = self.tokenizer.pad_token_id
        input_ids_BS = pad_sequence(rows, batch_first=True, padding_value=pad)
        mask_BS = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return {"input_ids": input_ids_BS.to(device), "attention_mask": mask_BS.to(device)}

    def answers(self, sources: TokenIds, settings: DecodingSettings) -> list[list[int]]:
        """See :class:`Engine`; ``early_stopping`` is off by default.

        Raises:
            DataError: the model's logits are not finite.
        """
        queued = self.queued_answers(sources, settings)
        return self._generate(sources, settings, []) if queued is None else _in_order(queued)

    def watched_answers(
        self, sources: TokenIds, settings: DecodingSettings, watch: Watch
    ) -> list[list[int]]:
        """See :class:`WatchedEngine`."""
        queued = self.queued_answers(sources, settings, watch)
        if queued is not None:
            return _in_order(queued)
        watching = _Watching(watch, len(sources), self.tokenizer.eos_token_id)
        generated = self._generate(sources, settings, [watching])
        # Padding follows an answer that was ended early.
        return [ids[:length] for ids, length in zip(generated, watching.lengths, strict=True)]

    def queued_answers(
        self,
        sources: TokenIds,
        settings: DecodingSettings,
        watch: Watch | None = None,
    ) -> Iterator[Answer] | None:
        """See :class:`QueuedEngine`: by our own decoder, None where ``generate`` must be used."""
        own = self.model.generation_config
        if self.mixed or own.forced_bos_token_id is not None or own.bad_words_ids:
            return None
        if not supports(settings) or not sources or (watch and settings.temperature):
            return None
        start = start_id(self.model, self.tokenizer)
        with self.ready() as model:
            adapter = (self.adapter, self.adapter_on)
            decoder = fast_decoder(model, sources, start=start, adapter=adapter)
        if decoder is None:
            return None
        end, constrained = self.tokenizer.eos_token_id, self._constrained(settings)
        queue = Continuous(decoder, self.name, start, end, constrained)
        return self._from_queue(queue, sources, settings, watch)

    def _constrained(self, settings: DecodingSettings) -> Constrained | None:
        constraint = constraint_of(settings, self.tokenizer)
        end = self.tokenizer.eos_token_id
        return None if constraint is None else Constrained(constraint.allow, end)

    def _from_queue(
        self,
        queue: Continuous,
        sources: TokenIds,
        settings: DecodingSettings,
        watch: Watch | None,
    ) -> Iterator[Answer]:
        with _out_of_memory_named(sources, settings), self.ready():
            yield from queue.answers(sources, settings, watch)

    def _generate(
        self,
        sources: TokenIds,
        settings: DecodingSettings,
        criteria: list[StoppingCriteria],
    ) -> list[list[int]]:
        samples = settings.returned if settings.temperature > 0 else 1
        inputs = self.inputs([source for source in sources for _ in range(samples)])
        config = decoding_config(self.model, self.tokenizer, settings.changed())
        config.num_return_sequences = settings.returned if settings.num_beams > 1 else 1
        processors = finite_logits(self.name)
        if constrained := self._constrained(settings):
            processors.append(constrained)
        if settings.temperature > 0:
            drawn = [generators_of(source, settings.seed, samples) for source in sources]
            temperature, top_p = settings.temperature, settings.top_p
            generators = [one for several in drawn for one in several]
            processors.append(Sampling(generators, temperature=temperature, top_p=top_p))
        mixed: dict[str, Any] = {}
        if self.mixed:  # PEFT reads the beams here only
            mixed = {"adapter_names": list(self.mixed), "num_beams": settings.num_beams}
        named = _out_of_memory_named(sources, settings)
        with named, self.ready() as model, only(model, config), quiet():
            output_BT = model.generate(
                **inputs,
                generation_config=config,
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList(criteria),
                **mixed,
            )
        return answer_ids(output_BT, self.tokenizer.eos_token_id)


def _in_order(queued: Iterator[Answer]) -> list[list[int]]:
    return [ids for _, ids in sorted(queued)]


def _out_of_memory_named(
    sources: TokenIds, settings: DecodingSettings
) -> AbstractContextManager[None]:
    longest = max(map(len, sources))
    size = (
        f"{min(len(sources), settings.rows_at_once(longest))} sources of up to {longest} "
        f"tokens with {settings.hypotheses} {'sample' if settings.temperature else 'beam'}(s)"
    )
    hint = f"--set evaluation.batch_tokens={max(1, settings.batch_tokens // 2)}"
    return naming_out_of_memory(f"out of memory decoding {size}", hint=hint)


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
