"""A split larger than memory: what is read of its file does not stay in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from resident_memory import rise

from lora_s2s.data import prepared
from lora_s2s.data.prepared import KeptRow, SplitTable, SplitWriter, record_batch
from lora_s2s.errors import DataError

BATCHES, ROWS, TOKENS = 24, 512, 1024  # 48 MiB of ids


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory")
def test_reading_a_split_takes_a_part_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.arange(1, TOKENS + 1, dtype=np.int32).tolist()
    batch = record_batch([KeptRow(ids, ids[:4], "a", f"t{row}", "f:1") for row in range(ROWS)])
    with SplitWriter(tmp_path) as writer:
        for _ in range(BATCHES):
            writer.add("train", batch)
    size = (tmp_path / "train.arrow").stat().st_size
    monkeypatch.setattr(prepared, "_MOST_MAPPED", 1 << 23)
    taken = rise()
    table = SplitTable(tmp_path / "train.arrow")
    assert table.source_lengths.tolist() == [TOKENS] * (BATCHES * ROWS)
    assert table.target_lengths.tolist() == [4] * (BATCHES * ROWS)
    table.check()
    table.check_vocabulary(TOKENS + 1)
    assert table.distinct_targets() == ROWS
    assert len(set(table.each_target())) == ROWS
    assert taken() < size // 3
    taken = rise()
    seen = [int(table.features(row).input_ids[-1]) for row in range(len(table))]
    assert seen == [TOKENS] * (BATCHES * ROWS)
    assert taken() < size // 3


@pytest.mark.parametrize("cut", [0, 2])
def test_a_file_that_is_cut_off_while_it_is_read_gives_no_wrong_row(
    cut: int, tmp_path: Path
) -> None:
    path, rows = tmp_path / "train.arrow", [KeptRow([4], [1, 2, 3], "a", "b", "f:1")] * 2
    with SplitWriter(tmp_path) as writer:
        writer.add("train", record_batch(rows))
    table = SplitTable(path)
    place = path.read_bytes().index(np.array([1, 2, 3] * 2, np.int32).tobytes())
    with path.open("r+b") as file:
        file.truncate(place + 3 * 4 + cut)
    assert table.features(0).labels.tolist() == [1, 2, 3]
    for read in (lambda: table.features(1), table.sources, table.distinct_targets):
        with pytest.raises(DataError, match=r"train\.arrow is damaged"):
            read()
