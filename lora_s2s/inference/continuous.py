"""Continuous batching: rows that have ended leave the batch, and waiting sources take their places.

Legend: B sources, K beams of each, R = B·K rows, C = 2K candidates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from lora_s2s.fast_t5.decoder import Decoder, State, close_ranks
from lora_s2s.inference.beam_search import Candidates, Search
from lora_s2s.inference.engine import Answer, DecodingSettings, TokenIds, Watch
from lora_s2s.models.logits import Constrained, check_logits
from lora_s2s.models.sampling import Sampling, generators_of

# How many steps' work may be spent on answers that have ended, before the others are copied
# together: about what the copy costs.
_WASTE = 0.5
# More rows are no faster on a CPU, and their keys and values leave its caches.
_MOST_ROWS = 128
_BLOCK = 64  # ids whose largest logit is found first


def supports(settings: DecodingSettings) -> bool:
    """Whether they ask for no penalty but the length's, and nothing of the checkpoint's own."""
    lacks = {"repetition_penalty", "no_repeat_ngram_size", "decoding"}
    return not lacks & settings.changed().keys()


class Greedy:
    """The answers under way of one row a source: the most likely id at every step.

    Args:
        sources: the place of each source.
        end: the id of ``</s>``.
        name: the model's, for messages.
        watch: called with every answer's ids so far.
    """

    def __init__(
        self,
        sources: Sequence[int],
        settings: DecodingSettings,
        end: int,
        name: str,
        watch: Watch | None = None,
    ) -> None:
        self.sources, self.over = list(sources), [False] * len(sources)
        self._ids: list[list[int]] = [[] for _ in sources]
        self._most, self._end = settings.max_new_tokens, end
        self._name, self._watch = name, watch

    def extend(self, logits_RV: Tensor, constrained: Constrained | None = None) -> None:
        """Takes the next id of every row.

        Raises:
            DataError: the logits are not finite.
        """
        if constrained is not None:
            ruled_out_RV = constrained.ruled_out(self._ids, logits_RV)
            logits_RV = logits_RV.masked_fill(ruled_out_RV, -torch.inf)
        best_R1, chosen_R1 = largest(logits_RV, 1)
        check_logits(best_R1, model=self._name)
        for place, (ids, token) in enumerate(zip(self._ids, chosen_R1[:, 0].tolist(), strict=True)):
            if not self.over[place]:
                ids.append(token)
                stopped = self._watch is not None and self._watch(self.sources[place], list(ids))
                self.over[place] = stopped or token == self._end or len(ids) == self._most

    def newest(self) -> Tensor:
        """Returns the last id of every row."""
        return torch.tensor([ids[-1] for ids in self._ids])

    def answers(self, place: int) -> list[list[int]]:
        """Returns the ids of the answer to a source that is over."""
        return [self._ids[place]]

    def shrink(self, live: Sequence[int]) -> None:
        """Goes on with these sources alone."""
        self.sources = [self.sources[place] for place in live]
        self.over = [self.over[place] for place in live]
        self._ids = [self._ids[place] for place in live]

    def replace(self, places: Sequence[int], other: Greedy) -> None:
        """Lets the other sources take the places of some of these."""
        for new, place in enumerate(places):
            self.sources[place], self.over[place] = other.sources[new], other.over[new]
            self._ids[place] = other._ids[new]


class _Sample(NamedTuple):
    """An answer under way, and what draws its ids."""

    generator: torch.Generator
    ids: list[int]


class Samples:
    """The same with several rows a source, each of which is drawn on its own.

    Args:
        read: the ids of each source.
    """

    def __init__(
        self,
        sources: Sequence[int],
        read: TokenIds,
        settings: DecodingSettings,
        end: int,
        name: str,
    ) -> None:
        self.sources = list(sources)
        self._most, self._end, self._name = settings.max_new_tokens, end, name
        self._each = settings.returned
        temperature, top_p = settings.temperature, settings.top_p
        self._sampling = Sampling((), temperature=temperature, top_p=top_p)
        self._samples = [
            [_Sample(one, []) for one in generators_of(ids, settings.seed, self._each)]
            for ids in read
        ]

    @property
    def over(self) -> list[bool]:
        """Whether each source's answers have all ended."""
        return [all(self._ended(sample.ids) for sample in one) for one in self._samples]

    def _ended(self, ids: Sequence[int]) -> bool:
        return bool(ids) and (ids[-1] == self._end or len(ids) == self._most)

    def extend(self, logits_RV: Tensor, constrained: Constrained | None = None) -> None:
        """Draws the next id of every row, or the first ids of a source's only row.

        Raises:
            DataError: the logits are not finite.
        """
        if len(logits_RV) == len(self.sources):
            logits_RV = logits_RV.repeat_interleave(self._each, dim=0)
        samples = [*chain.from_iterable(self._samples)]
        open_rows = [row for row, sample in enumerate(samples) if not self._ended(sample.ids)]
        logits_OV, going_on = logits_RV[open_rows], [samples[row] for row in open_rows]
        if constrained is not None:
            ruled_out_OV = constrained.ruled_out([sample.ids for sample in going_on], logits_OV)
            logits_OV = logits_OV.masked_fill(ruled_out_OV, -torch.inf)
        check_logits(logits_OV, model=self._name)
        drawn_OV = self._sampling.perturbed(logits_OV, [sample.generator for sample in going_on])
        for sample, token in zip(going_on, drawn_OV.argmax(dim=-1).tolist(), strict=True):
            sample.ids.append(token)

    def newest(self) -> Tensor:
        """Returns the last id of every row."""
        return torch.tensor([sample.ids[-1] for one in self._samples for sample in one])

    def answers(self, place: int) -> list[list[int]]:
        """Returns the ids of the answers to a source that is over."""
        return [sample.ids for sample in self._samples[place]]

    def shrink(self, live: Sequence[int]) -> None:
        """Goes on with these sources alone."""
        self.sources = [self.sources[place] for place in live]
        self._samples = [self._samples[place] for place in live]

    def replace(self, places: Sequence[int], other: Samples) -> None:
        """Lets the other sources take the places of some of these."""
        for new, place in enumerate(places):
            self.sources[place], self._samples[place] = other.sources[new], other._samples[new]


class Beams:
    """The same with ``num_beams`` rows a source: beam search."""

    def __init__(
        self, sources: Sequence[int], settings: DecodingSettings, end: int, name: str
    ) -> None:
        self.sources = list(sources)
        self._search = Search(len(sources), settings, (), end)
        self._beams, self._returned, self._name = settings.num_beams, settings.returned, name

    @property
    def over(self) -> list[bool]:
        """Whether each source's answer has ended."""
        over: list[bool] = self._search.over_B.tolist()
        return over

    def extend(self, logits_RV: Tensor, constrained: Constrained | None = None) -> Tensor:
        """Takes the next id of every row, or the first ids of a source's only row; returns the
        rows that they go on from.

        Raises:
            DataError: the logits are not finite.
        """
        scores_BK = torch.from_numpy(self._search.scores_BK).to(logits_RV.device)
        begins = len(logits_RV) == len(self.sources)
        scores_BK = scores_BK[:, :1] if begins else scores_BK
        log_probs_RV = logits_RV.float().log_softmax(dim=-1)
        if constrained is not None:
            running = self._search.running()[:: self._beams if begins else 1]
            ruled_out_RV = constrained.ruled_out(running, log_probs_RV)
            log_probs_RV = log_probs_RV.masked_fill(ruled_out_RV, -torch.inf)
        candidates = best_continuations(log_probs_RV, scores_BK, self._beams, name=self._name)
        parents_R = self._search.extend(candidates)
        return torch.from_numpy(parents_R).to(logits_RV.device)

    def newest(self) -> Tensor:
        """Returns the last id of every row."""
        return torch.from_numpy(self._search.newest()[:, 0])

    def answers(self, place: int) -> list[list[int]]:
        """Returns the ids of the best answers to a source that is over."""
        return self._search.best(place, self._returned)

    def shrink(self, live: Sequence[int]) -> None:
        """Goes on with these sources alone."""
        self.sources = [self.sources[place] for place in live]
        self._search.take(live)

    def replace(self, places: Sequence[int], other: Beams) -> None:
        """Lets the other sources take the places of some of these."""
        for new, place in enumerate(places):
            self.sources[place] = other.sources[new]
        self._search.replace(places, other._search)


def best_continuations(
    log_probs_RV: Tensor, scores_BK: Tensor, beams: int, *, name: str
) -> Candidates:
    """Returns the 2 · ``beams`` best continuations of each source.

    Args:
        log_probs_RV: of every row.
        scores_BK: the sums of log-probabilities of the rows so far.
        name: the model's, for messages.

    Raises:
        DataError: the logits are not finite.
    """
    rows, count = scores_BK.shape[0], 2 * beams
    best_RC, ids_RC = largest(log_probs_RV, count)
    check_logits(best_RC, model=name)
    totals_BN = (best_RC + scores_BK.reshape(-1, 1)).view(rows, -1)
    scores_BC, places_BC = totals_BN.topk(min(count, totals_BN.shape[1]), dim=-1)
    tokens_BC = ids_RC.reshape(rows, -1).gather(1, places_BC)
    parents_BC = places_BC // ids_RC.shape[-1]
    return Candidates(*(part.cpu().numpy() for part in (scores_BC, parents_BC, tokens_BC)))


def largest(logits_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the ``count`` largest logits of each row and their ids, like ``topk`` and faster.

    They lie in the ``count`` blocks of ids whose largest logits are largest.
    """
    rows, vocabulary = logits_RV.shape
    blocks = vocabulary // _BLOCK
    if blocks <= 2 * count:
        return logits_RV.topk(min(count, vocabulary), dim=-1)
    whole = blocks * _BLOCK
    blocks_RNW = logits_RV[:, :whole].view(rows, blocks, _BLOCK)
    chosen_RC = blocks_RNW.amax(dim=-1).topk(count, dim=-1).indices
    offsets_W = torch.arange(_BLOCK, device=logits_RV.device)
    ids_RN = (chosen_RC[:, :, None] * _BLOCK + offsets_W).view(rows, -1)
    rest_N = torch.arange(whole, vocabulary, device=logits_RV.device)
    ids_RN = torch.cat([ids_RN, rest_N.expand(rows, -1)], dim=1)
    best_RC, places_RC = logits_RV.gather(1, ids_RN).topk(count, dim=-1)
    return best_RC, ids_RN.gather(1, places_RC)


@dataclass
class _Batch:
    """What the decoder keeps of the rows under way, and their answers so far."""

    state: State
    rows: Greedy | Samples | Beams

    def live(self) -> list[int]:
        return [place for place, over in enumerate(self.rows.over) if not over]

    def shrink(self, live: Sequence[int]) -> None:
        places = close_ranks(live)
        self.state.shrink(places)
        self.rows.shrink(places)

    def replace(self, places: Sequence[int], other: _Batch) -> None:
        self.state.replace(places, other.state)
        self.rows.replace(places, other.rows)  # type: ignore[arg-type]  # both of the same kind


@dataclass(frozen=True)
class Continuous:
    """Answers sources with a decoder, as many at once as the settings allow.

    ``name`` is the model's, for messages; ``start`` the decoder's first id, ``end`` that of
    ``</s>``; ``constrained`` rules out tokens.
    """

    decoder: Decoder
    name: str
    start: int
    end: int
    constrained: Constrained | None = None

    def answers(
        self,
        sources: TokenIds,
        settings: DecodingSettings,
        watch: Watch | None = None,
    ) -> Iterator[Answer]:
        """Yields the answers to every source as soon as they have ended; the longest sources
        begin.

        Args:
            sources: token ids; see :meth:`lora_s2s.inference.engine.Engine.answers`.
            settings: those that :func:`supports` allows.
            watch: of greedy decoding; called with a source's place.

        Raises:
            DataError: the model's logits are not finite.
        """
        waiting = sorted(range(len(sources)), key=lambda place: -len(sources[place]))
        while waiting:
            most = _fitting(waiting, sources, settings)
            batch, waste = self._begun(waiting[:most], sources, settings, watch), 0.0
            waiting = waiting[most:]
            yield from _ended(batch)
            while live := batch.live():
                waste += 1 - len(live) / len(batch.rows.over)
                if waste >= _WASTE:
                    waste = 0.0
                    # Where twice as many would fit, a new batch begins when this one is over.
                    if waiting and _fitting(waiting, sources, settings) < 2 * most:
                        gone = sorted(set(range(len(batch.rows.over))) - set(live))
                        more = self._begun(waiting[: len(gone)], sources, settings, watch)
                        waiting = waiting[len(gone) :]
                        batch.replace(gone[: len(more.rows.over)], more)
                        yield from _ended(more)
                    else:
                        batch.shrink(live)
                over = list(batch.rows.over)
                self._step(batch)
                yield from _ended(batch, over)

    def _begun(
        self,
        places: Sequence[int],
        sources: TokenIds,
        settings: DecodingSettings,
        watch: Watch | None,
    ) -> _Batch:
        """Encodes some sources and decodes the first id of each."""
        chosen, each = [sources[place] for place in places], settings.hypotheses
        state = self.decoder.read(chosen)
        rows: Greedy | Samples | Beams
        if settings.num_beams > 1:
            rows = Beams(places, settings, self.end, self.name)
        elif settings.temperature > 0:
            rows = Samples(places, chosen, settings, self.end, self.name)
        else:
            rows = Greedy(places, settings, self.end, self.name, watch)
        start_R = torch.full((len(places),), self.start, device=self.decoder.device)
        rows.extend(self.decoder.step(state, start_R), self.constrained)
        if each > 1:
            state.repeat(each)
        return _Batch(state, rows)

    def _step(self, batch: _Batch) -> None:
        logits_RV = self.decoder.step(batch.state, batch.rows.newest().to(self.decoder.device))
        parents_R = batch.rows.extend(logits_RV, self.constrained)
        if parents_R is not None:
            batch.state.reorder(parents_R)


def _fitting(waiting: Sequence[int], sources: TokenIds, settings: DecodingSettings) -> int:
    """How many of the sources that wait fit into a batch. Hypotheses share what is kept of their
    source, and nothing is padded while sources are read.
    """
    most = max(1, _MOST_ROWS // settings.hypotheses)
    lengths = [len(sources[place]) for place in waiting[:most]]
    within = [total <= settings.batch_tokens for total in accumulate(lengths)]
    return max(1, sum(within))


def _ended(batch: _Batch, before: Sequence[bool] = ()) -> Iterator[Answer]:
    """The answers that have ended, but for those that had before."""
    for place, (over, was_over) in enumerate(zip_longest(batch.rows.over, before)):
        if over and not was_over:
            answers, source = batch.rows.answers(place), batch.rows.sources[place]
            for rank, ids in enumerate(answers):
                yield source * len(answers) + rank, ids
