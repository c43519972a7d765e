"""Beam search on scores of any runtime, in numpy; the same rules as transformers', with length
penalty 1.

B rows, K beams, C = 2K candidates, V vocabulary, L longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lora_s2s.inference.engine import DecodingSettings

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
_NONE = np.float32(-1e9)  # the score of what is not there


class Search:
    """The beams of a batch that still run, and the best answers that have ended.

    Attributes:
        over: whether no answer can change any more.
    """

    def __init__(
        self, rows: int, settings: DecodingSettings, prefix: Sequence[int], end: int
    ) -> None:
        """Begins every beam with ``prefix``; only the first one of each row counts, since all are
        equal.
        """
        beams, most = settings.num_beams, settings.max_new_tokens
        self.early, self.end, self.most = bool(settings.early_stopping), end, most
        self.length, self.over = len(prefix), False
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
        rows: list[list[int]] = self.ids_BKL.reshape(-1, self.most)[:, : self.length].tolist()
        return rows

    def newest(self) -> Ids:
        """Returns the last id of every running beam (B·K, 1)."""
        newest: Ids = self.ids_BKL[..., self.length - 1].reshape(-1, 1)
        return newest

    def best(self) -> list[list[int]]:
        """Returns each row's best answer, its end included where it has one."""
        answers = []
        for ids in self.ended_ids_BKL[:, 0].tolist():
            ends = ids.index(self.end) + 1 if self.end in ids else len(ids)
            answers.append(ids[:ends])
        return answers

    def extend(self, log_probs_NV: Floats) -> NDArray[np.intp]:
        """Extends the running beams by one id, given the scores of the next ones (B·K, V).

        Returns:
            the place among the B·K from which each running beam came.
        """
        rows, beams = self.scores_BK.shape
        vocabulary = log_probs_NV.shape[-1]
        total_NV = log_probs_NV + self.scores_BK.reshape(-1, 1)
        scores_BC, places_BC = _largest(total_NV.reshape(rows, -1), 2 * beams)
        parents_BC = places_BC // vocabulary
        ids_BCL = np.take_along_axis(self.ids_BKL, parents_BC[..., None], axis=1)
        ids_BCL[..., self.length] = places_BC % vocabulary
        self.length += 1
        ends_BC = (ids_BCL[..., self.length - 1] == self.end) | (self.length == self.most)

        self._keep_ended(scores_BC, ids_BCL, ends_BC)
        self.scores_BK, order_BK = _largest(scores_BC + ends_BC * _NONE, beams)
        self.ids_BKL = np.take_along_axis(ids_BCL, order_BK[..., None], axis=1)
        self._judge(bool(ends_BC.all()))
        parents_BK = np.take_along_axis(parents_BC, order_BK, axis=1)
        offsets_B1 = np.arange(rows)[:, None] * beams
        result: NDArray[np.intp] = (parents_BK + offsets_B1).reshape(-1)
        return result

    def _keep_ended(self, scores_BC: Floats, ids_BCL: Ids, ends_BC: NDArray[np.bool_]) -> None:
        """Keeps the best answers that have ended, of those so far and the new ones."""
        beams = self.scores_BK.shape[1]
        new_BC = ends_BC.copy()
        new_BC[:, beams:] = False  # the rest only replaces what has ended
        shut_B1 = ~self.can_improve_B1
        if self.early:
            shut_B1 = shut_B1 | self.is_ended_BK.all(axis=1, keepdims=True)
        means_BC = scores_BC / np.float32(self.length) + (shut_B1 | ~new_BC) * _NONE
        means = np.concatenate([self.ended_scores_BK, means_BC], axis=1)
        ids = np.concatenate([self.ended_ids_BKL, ids_BCL], axis=1)
        is_ended = np.concatenate([self.is_ended_BK, new_BC], axis=1)
        self.ended_scores_BK, order_BK = _largest(means, beams)
        self.ended_ids_BKL = np.take_along_axis(ids, order_BK[..., None], axis=1)
        self.is_ended_BK = np.take_along_axis(is_ended, order_BK, axis=1)

    def _judge(self, all_end: bool) -> None:
        best_B1 = self.scores_BK[:, :1] / np.float32(self.length)
        worst_B1 = self.ended_scores_BK.min(axis=1, keepdims=True)
        better_BK = best_B1 > np.where(self.is_ended_BK, worst_B1, _NONE)
        self.can_improve_B1 &= better_BK.any(axis=1, keepdims=True)
        full = self.early and bool(self.is_ended_BK.all())
        self.over = full or all_end or not self.can_improve_B1.any()


def _largest(values: Floats, count: int) -> tuple[Floats, NDArray[np.intp]]:
    """Returns the largest values of each row, in falling order, and their places."""
    count = min(count, values.shape[1])
    places = np.argpartition(-values, count - 1, axis=1)[:, :count]
    chosen = np.take_along_axis(values, places, axis=1)
    # Equal values in the order of their places, as torch gives them.
    order = np.lexsort((places, -chosen), axis=1)
    places = np.take_along_axis(places, order, axis=1)
    return np.take_along_axis(values, places, axis=1), places
