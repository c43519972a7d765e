"""Beam search on scores of any runtime, in numpy, by the same rules as transformers'.

Rows need not have the same length: some may begin while others are under way.
B rows, K beams, C = 2K candidates, V vocabulary, L longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lora_s2s.inference.engine import DecodingSettings

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Places = NDArray[np.intp]
_NONE = np.float32(-1e9)  # the score of what is not there


class Candidates(NamedTuple):
    """The best continuations of each row, best first: the sum of log-probabilities, the beam that
    is continued, the next id, (B, C) each.
    """

    scores_BC: Floats
    parents_BC: NDArray[np.integer]
    ids_BC: NDArray[np.integer]


class Search:
    """The beams of rows that still run, and the best answers that have ended.

    Attributes:
        ended_ids_BKL, ended_scores_BK: the best answers that have ended, best first, and their
            scores: the sum of log-probabilities by the length to the power of the length penalty.
        over_B: whether a row's answers can no longer change.
    """

    def __init__(
        self, rows: int, settings: DecodingSettings, prefix: Sequence[int], end: int
    ) -> None:
        """Begins every beam with ``prefix``; only the first one of each row counts, since all are
        equal.
        """
        beams, most = settings.num_beams, settings.max_new_tokens
        self.early, self.end, self.most = bool(settings.early_stopping), end, most
        self.penalty = settings.length_penalty
        self.lengths_B = np.full(rows, len(prefix))
        self.over_B = np.zeros(rows, bool)
        self.ids_BKL = np.full((rows, beams, most), end, np.int64)
        self.ids_BKL[..., : len(prefix)] = prefix
        self.scores_BK = np.full((rows, beams), _NONE, np.float32)
        self.scores_BK[:, 0] = 0
        self.ended_ids_BKL = self.ids_BKL.copy()
        self.ended_scores_BK = np.full((rows, beams), _NONE, np.float32)
        self.is_ended_BK = np.zeros((rows, beams), bool)
        self.can_improve_B1 = np.ones((rows, 1), bool)

    def running(self) -> list[list[int]]:
        """Returns the ids of every running beam, row after row."""
        return [
            ids[:length].tolist()
            for row, length in zip(self.ids_BKL, self.lengths_B, strict=True)
            for ids in row
        ]

    def newest(self) -> Ids:
        """Returns the last id of every running beam (B·K, 1)."""
        newest_BK: Ids = self.ids_BKL[np.arange(len(self.ids_BKL)), :, self.lengths_B - 1]
        return newest_BK.reshape(-1, 1)

    def best(self, row: int, count: int) -> list[list[int]]:
        """Returns a row's best answers, best first, their ends included where they have one."""
        several: list[list[int]] = self.ended_ids_BKL[row, :count].tolist()
        return [ids[: ids.index(self.end) + 1] if self.end in ids else ids for ids in several]

    def candidates(self, log_probs_NV: Floats) -> Candidates:
        """Returns the best continuations, given the scores of the next ids (B·K, V)."""
        rows, beams = self.scores_BK.shape
        vocabulary = log_probs_NV.shape[-1]
        total_NV = log_probs_NV + self.scores_BK.reshape(-1, 1)
        scores_BC, places_BC = _largest(total_NV.reshape(rows, -1), 2 * beams)
        return Candidates(scores_BC, places_BC // vocabulary, places_BC % vocabulary)

    def extend(self, candidates: Candidates) -> Places:
        """Extends the running beams by one id; those of rows that are over stay as they are.

        Returns:
            the place among the B·K from which each running beam came.
        """
        rows, beams = self.scores_BK.shape
        scores_BC, parents_BC, _ = candidates
        every_B, new_B = np.arange(rows), np.where(self.over_B, self.lengths_B - 1, self.lengths_B)
        longest = int(new_B.max()) + 1
        ids_BCL = np.take_along_axis(self.ids_BKL[..., :longest], parents_BC[..., None], axis=1)
        ids_BCL[every_B, :, new_B] = candidates.ids_BC
        self.lengths_B = new_B + 1
        at_most_B1 = (self.lengths_B == self.most)[:, None]
        ends_BC = (candidates.ids_BC == self.end) | at_most_B1

        self._keep_ended(scores_BC, ids_BCL, ends_BC)
        running_BC = scores_BC + ends_BC * _NONE
        _, order_BK = _largest(running_BC, beams)
        stays_BK = _staying(np.take_along_axis(parents_BC, order_BK, axis=1))
        order_BK = np.take_along_axis(order_BK, stays_BK, axis=1)
        self.scores_BK = np.take_along_axis(running_BC, order_BK, axis=1)
        self.ids_BKL[..., :longest] = np.take_along_axis(ids_BCL, order_BK[..., None], axis=1)
        self._judge(ends_BC.all(axis=1))
        parents_BK = np.take_along_axis(parents_BC, order_BK, axis=1)
        result: Places = (parents_BK + every_B[:, None] * beams).reshape(-1)
        return result

    def take(self, rows_B: Sequence[int]) -> None:
        """Goes on with these rows alone."""
        for name, values in self._by_row().items():
            setattr(self, name, values[rows_B])

    def replace(self, rows_B: Sequence[int], other: Search) -> None:
        """Lets another search's rows take the places of some of these."""
        others = other._by_row()
        for name, values in self._by_row().items():
            values[rows_B] = others[name]

    def _by_row(self) -> dict[str, NDArray[np.generic]]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def _lengths_penalised(self) -> Floats:
        penalised_B1: Floats = (self.lengths_B[:, None] ** self.penalty).astype(np.float32)
        return penalised_B1

    def _keep_ended(self, scores_BC: Floats, ids_BCL: Ids, ends_BC: NDArray[np.bool_]) -> None:
        """Keeps the best answers that have ended, of those so far and the new ones."""
        beams, longest = self.scores_BK.shape[1], ids_BCL.shape[-1]
        new_BC = ends_BC.copy()
        new_BC[:, beams:] = False  # the rest only replaces what has ended
        shut_B1 = ~self.can_improve_B1 | self.over_B[:, None]
        if self.early:
            shut_B1 = shut_B1 | self.is_ended_BK.all(axis=1, keepdims=True)
        means_BC = scores_BC / self._lengths_penalised() + (shut_B1 | ~new_BC) * _NONE
        means = np.concatenate([self.ended_scores_BK, means_BC], axis=1)
        ids = np.concatenate([self.ended_ids_BKL[..., :longest], ids_BCL], axis=1)
        is_ended = np.concatenate([self.is_ended_BK, new_BC], axis=1)
        self.ended_scores_BK, order_BK = _largest(means, beams)
        self.ended_ids_BKL[..., :longest] = np.take_along_axis(ids, order_BK[..., None], axis=1)
        self.is_ended_BK = np.take_along_axis(is_ended, order_BK, axis=1)

    def _judge(self, all_end_B: NDArray[np.bool_]) -> None:
        best_B1 = self.scores_BK.max(axis=1, keepdims=True) / self._lengths_penalised()
        worst_B1 = self.ended_scores_BK.min(axis=1, keepdims=True)
        better_BK = best_B1 > np.where(self.is_ended_BK, worst_B1, _NONE)
        self.can_improve_B1 &= better_BK.any(axis=1, keepdims=True)
        full_B = self.is_ended_BK.all(axis=1) & self.early
        self.over_B |= full_B | all_end_B | ~self.can_improve_B1[:, 0]


def _staying(parents_BK: NDArray[np.integer]) -> Places:
    """Returns an order of beams in which as many as can be are where their parents were, so that
    little of what a decoder keeps of them must be moved.
    """
    rows, beams = parents_BK.shape
    every_B, order_BK = np.arange(rows), np.full((rows, beams), -1)
    free_BK = np.ones((rows, beams), bool)
    for stays in (True, False):
        for place in range(beams):
            fits_BK = free_BK & (parents_BK == place) if stays else free_BK
            taken_B = fits_BK.any(axis=1) & (order_BK[:, place] < 0)
            chosen_B = fits_BK.argmax(axis=1)
            order_BK[taken_B, place] = chosen_B[taken_B]
            free_BK[every_B[taken_B], chosen_B[taken_B]] = False
    return order_BK


def _largest(values: Floats, count: int) -> tuple[Floats, Places]:
    """Returns the largest values of each row, in falling order, and their places."""
    count = min(count, values.shape[1])
    places = np.argpartition(-values, count - 1, axis=1)[:, :count]
    chosen = np.take_along_axis(values, places, axis=1)
    # Equal values in the order of their places, as torch gives them.
    order = np.lexsort((places, -chosen), axis=1)
    places = np.take_along_axis(places, order, axis=1)
    return np.take_along_axis(values, places, axis=1), places
