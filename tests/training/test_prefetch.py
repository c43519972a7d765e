"""Batches made ahead: the same ones in the same order, errors as themselves, and no thread left
behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_parts import Rows, adapter_of, run, tiny_model

from lora_s2s.training import loader
from lora_s2s.training.prefetch import ahead


def counted(made: list[int], fail_at: int = -1) -> Iterator[int]:
    for number in range(100):
        if number == fail_at:
            raise KeyError(number)
        made.append(number)
        yield number


def test_items_come_in_order_and_two_are_made_ahead() -> None:
    made: list[int] = []
    with ahead(counted(made), 2) as take:
        assert [take() for _ in range(10)] == list(range(10))
        deadline = time.monotonic() + 60
        while len(made) < 12 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert made == list(range(12))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_is_raised_as_itself_where_its_item_is_taken(count: int) -> None:
    with ahead(counted([], fail_at=3), count) as take:
        assert [take() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError, match="3"):
            take()


def test_leaving_by_an_error_ends_the_thread() -> None:
    made: list[int] = []
    with pytest.raises(ValueError, match="left"), ahead(counted(made), 2):
        raise ValueError("left")
    assert len(made) <= 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("count", [0, 2])
def test_a_run_with_batches_made_ahead_is_the_run_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    plain, other = tiny_model(dropout=0.1), tiny_model(dropout=0.1)
    run(tmp_path / "plain", model=plain)
    monkeypatch.setattr(loader, "ahead", lambda items, _: ahead(items, count))
    run(tmp_path / "other", model=other)
    assert all(
        torch.equal(tensor, adapter_of(other)[name]) for name, tensor in adapter_of(plain).items()
    )


@pytest.mark.parametrize("count", [0, 2])
def test_a_row_that_cannot_be_read_ends_the_run_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    class Broken(Rows):
        def features(self, index: int) -> SimpleNamespace:
            if index == 11:
                raise OSError("the disk is gone")
            return super().features(index)

    monkeypatch.setattr(loader, "ahead", lambda items, _: ahead(items, count))
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, rows=Broken(24))
