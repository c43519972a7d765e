"""What goes wrong while a run goes on: what is not finite, no memory, trackers, clocks, locks;
never in silence.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_parts import Rows, adapter_of, in_step, metrics, run, saved_steps, tiny_model

from lora_s2s import files
from lora_s2s.errors import RecipeError, ResourceError, RunError, Stopped, UsageError
from lora_s2s.recipe.load import recipe_from_settings
from lora_s2s.training import log, loop
from lora_s2s.training.run_lock import run_lock
from lora_s2s.training.validation import make_validation

ROOT = Path(__file__).parents[2]
REAL = loop.sequence_loss


@contextmanager
def losses(change: Callable[[int, Any, Any], Any]) -> Iterator[list[int]]:
    """Lets ``change`` see the number, batch and loss of every forward pass, and return another
    loss.
    """
    seen: list[int] = []

    def changed(model: Any, batch: Any, **options: Any) -> Any:
        loss, tokens = REAL(model, batch, **options)
        seen.append(len(batch.labels_BT))
        return change(len(seen), batch, loss), tokens

    loop.sequence_loss = changed
    try:
        yield seen
    finally:
        loop.sequence_loss = REAL


def nan_at(*numbers: int) -> Callable[[int, Any, Any], Any]:
    return lambda number, _, loss: loss * float("nan") if number in numbers else loss


def same(one: Any, other: Any, **tolerance: float) -> bool:
    theirs = adapter_of(other)
    return all(
        torch.allclose(tensor, theirs[name], **tolerance)
        for name, tensor in adapter_of(one).items()
    )


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with losses(nan_at(5)):  # two micro-batches a step
        result = run(tmp_path, on_nonfinite="skip")
    assert (result.skipped, result.steps) == (1, 12)
    lines = metrics(tmp_path)
    assert [line["skipped"] for line in lines] == [0, 0, *[1] * 10]
    assert [line["step"] for line in lines if "loss" not in line] == [3]
    assert "step 3: the loss is nan" in capsys.readouterr().err
    assert all("NaN" not in line for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


def test_a_skipped_step_changes_nothing_and_resumes_alike(tmp_path: Path) -> None:
    whole, cut = tiny_model(), tiny_model()
    with losses(nan_at(5)):
        run(tmp_path / "whole", model=whole, on_nonfinite="skip")
    stop = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    with losses(nan_at(5)), in_step(5, stop), pytest.raises(Stopped):
        run(tmp_path / "cut", model=tiny_model(), on_nonfinite="skip")
    assert run(tmp_path / "cut", model=cut, on_nonfinite="skip", resume=True).skipped == 1
    assert same(whole, cut, atol=0, rtol=0)


def test_ten_skipped_steps_in_a_row_stop(tmp_path: Path) -> None:
    with (
        losses(lambda *_: _[2] * float("nan")),
        pytest.raises(RunError, match=r"step 10: .* 9 steps skipped in a row"),
    ):
        run(tmp_path, on_nonfinite="skip")
    assert len(metrics(tmp_path)) == 9


def test_a_loss_of_exactly_zero_stops(tmp_path: Path) -> None:
    with (
        losses(lambda *_: _[2] * 0),
        pytest.raises(RunError, match="step 1: the loss is exactly 0"),
    ):
        run(tmp_path)


def out_of_memory_above(rows: int) -> Callable[[int, Any, Any], Any]:
    def change(_: int, batch: Any, loss: Any) -> Any:
        if len(batch.labels_BT) > rows:
            # In the backward pass, when some gradients have been added.
            loss.register_hook(
                lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
            )
        return loss

    return change


def test_processes_that_gather_weights_from_each_other_do_not_take_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_s2s.training.memory.is_sharded", lambda _: True)
    with losses(out_of_memory_above(1)), pytest.raises(ResourceError) as caught:
        run(tmp_path)
    assert "training.tokens_per_batch" in str(caught.value.hint)


@pytest.mark.parametrize(
    "options", [{}, {"cache_encoder": True}, {"packing": True, "tokens_per_batch": 60}]
)
def test_out_of_memory_takes_halves_with_the_same_gradients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    if "packing" in options:
        options["batch_size"] = None
    models = [tiny_model(), tiny_model()]
    if options.get("cache_encoder"):
        for model in models:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and "decoder" in name)
    run(tmp_path / "whole", model=models[0], max_steps=4, **options)
    with losses(out_of_memory_above(1)) as seen:
        run(tmp_path / "halves", model=models[1], max_steps=4, **options)
    assert {1, 2, 3} <= set(seen)
    norms = [
        [line["grad_norm"] for line in metrics(tmp_path / name)] for name in ("whole", "halves")
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert capsys.readouterr().err.count("splitting it in halves") == 1


def test_memory_that_runs_out_at_random_steps_leaves_the_same_adapter(tmp_path: Path) -> None:
    chance = random.Random(7)
    faults = {number for number in range(1, 40) if chance.random() < 0.3}

    def sometimes(number: int, batch: Any, loss: Any) -> Any:
        return out_of_memory_above(1)(number, batch, loss) if number in faults else loss

    whole, halved = tiny_model(), tiny_model()
    run(tmp_path / "whole", model=whole)
    with losses(sometimes) as seen:
        result = run(tmp_path / "halved", model=halved)
    assert result.steps == 12
    assert len(seen) > 24 + len(faults) / 2  # passes repeated, and halves instead of wholes
    assert same(whole, halved, atol=1e-5, rtol=0)


def test_one_row_too_large_is_told(tmp_path: Path) -> None:
    with (
        losses(out_of_memory_above(0)),
        pytest.raises(ResourceError, match="with one row of") as told,
    ):
        run(tmp_path)
    assert "gradient_checkpointing" in str(told.value.hint)
    assert "lora-s2s plan" in str(told.value.hint)
    assert told.value.exit_code == 4


def test_a_tracker_that_fails_is_told_once_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Silent(Exception):
        pass

    class Tracker:
        def log(self, *_: object, **__: object) -> None:
            raise Silent("no answer from the host")

        def finish(self) -> None:
            raise Silent("still none")

    def start(accelerator: Any, *_: object) -> None:
        accelerator.trackers.append(Tracker())

    monkeypatch.setattr("lora_s2s.training.run.start_trackers", start)
    monkeypatch.setattr(
        "accelerate.Accelerator.log", lambda self, *_, **__: [t.log() for t in self.trackers]
    )
    assert run(tmp_path, max_steps=3).steps == 3
    said = capsys.readouterr().err
    assert said.count("a tracker failed, continuing without: Silent: no answer from the host") == 1
    assert log.METRICS in os.listdir(tmp_path)


def test_minutes_between_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 20))  # each look at it takes 20 seconds
    clocks = SimpleNamespace(monotonic=lambda: next(clock), perf_counter=time.perf_counter)
    monkeypatch.setattr("lora_s2s.training.run.time", clocks)
    run(tmp_path, save_every="1m", keep_checkpoints=20)
    assert saved_steps(tmp_path) == [2, 5, 8, 11, 12]


def test_save_every_in_words() -> None:
    def section_of(value: str) -> Any:
        return recipe_from_settings(
            "it", ["model.name=demo", "data.train=x", f"training.save_every={value}"]
        ).training

    assert (section_of("1_000").save_every, section_of("10m").save_every) == (1000, "10m")
    assert (section_of("10m").save_minutes, section_of("500").save_minutes) == (10, None)
    for bad in ("0", "-1", "10h", "m", "1.5"):
        with pytest.raises(RecipeError, match="steps"):
            section_of(bad)


def test_a_deadline_takes_at_least_a_step_and_comes_to_the_end(tmp_path: Path) -> None:
    taken = []
    for _ in range(12):
        result = run(tmp_path, resume=bool(taken), deadline=time.monotonic() - 1)
        taken.append((result.steps, result.stopped))
    assert taken == [*((step, "deadline") for step in range(1, 12)), (12, None)]
    whole = tiny_model()
    run(tmp_path / "whole", model=whole)
    ended = tiny_model()
    run(tmp_path, model=ended, resume=True)
    assert same(whole, ended, atol=0, rtol=0)


def test_a_run_left_after_a_share_of_its_steps_continues_as_if_it_had_not_been(
    tmp_path: Path,
) -> None:
    evaluated = make_validation(Rows(6, seed=1), pad_token_id=0, batch_size=3)
    taken, model = [], tiny_model()
    for share in (1 / 9, 1 / 3, 1 / 3, 1.0):
        model = tiny_model()
        extra = {"share": share, "resume": bool(taken), "evaluate": evaluated}
        result = run(tmp_path, model=model, schedule="linear", **extra)
        taken.append((result.steps, result.stopped, result.is_done))
        assert result.validation_loss is not None
    left = [(2, "share", False), (4, "share", False), (4, "share", False)]
    assert taken == [*left, (12, None, True)]
    assert [line["step"] for line in metrics(tmp_path) if "validation_loss" in line][:2] == [2, 4]
    whole = tiny_model()
    run(tmp_path / "whole", model=whole, schedule="linear", evaluate=evaluated)
    assert same(whole, model, atol=0, rtol=0)


def test_what_a_checkpoint_bears_goes_on_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, max_steps=5, identity={"package code": "a" * 64})
    changed = {"max_steps": 8, "identity": {"package code": "b" * 64}, "resume": True}
    with pytest.raises(UsageError, match="package code: checkpoint aaaa") as told:
        run(tmp_path, **changed)
    assert "resume_anyway=True" in str(told.value.hint)
    assert run(tmp_path, **changed, resume_anyway=True).steps == 8
    assert "training.max_steps: checkpoint 5, now 8" in capsys.readouterr().err
    changed["identity"] = {"base weights on disk": "c"}
    with pytest.raises(UsageError, match="base weights on disk: checkpoint nothing, now c") as told:
        run(tmp_path, **changed, resume_anyway=True)
    assert "anyway" not in str(told.value.hint)


def test_a_disk_too_small_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        files, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=100))
    )
    with pytest.raises(ResourceError, match=r"out of disk space: .* MiB are needed"):
        run(tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.skipif(os.name != "posix", reason="no locks and links")
def test_a_lock_is_written_into_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    lock = tmp_path / ".it.running.lock"
    lock.symlink_to(tmp_path / "mine.txt")
    with pytest.raises(UsageError, match="not a regular file"), run_lock(tmp_path / "it.running"):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(UsageError, match="not a regular file"), run_lock(tmp_path / "it.running"):
        pass


def test_a_lock_says_whose_it_is_and_a_stale_one_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it.running"
    code = (
        "import sys, time; from pathlib import Path; from lora_s2s.training.run_lock import "
        "run_lock\n"
        f"with run_lock(Path({str(folder)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(UsageError, match=f"process {other.pid} on .*, started 20"),
            run_lock(folder),
        ):
            pass
        other.kill()
    with run_lock(folder), run_lock(folder):
        assert f"taking over: the previous run (process {other.pid} on" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_micro_step_is_finished_and_the_step_left(tmp_path: Path) -> None:
    whole, cut = tiny_model(dropout=0.1), tiny_model(dropout=0.1)
    run(tmp_path / "whole", model=whole, gradient_accumulation=4)

    def signalled(number: int, _: Any, loss: Any) -> Any:
        if number == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    with losses(signalled) as seen, pytest.raises(Stopped, match="after step 2 of 12"):
        run(tmp_path / "cut", model=tiny_model(dropout=0.1), gradient_accumulation=4)
    assert len(seen) == 10
    run(tmp_path / "cut", model=cut, gradient_accumulation=4, resume=True, save_every=1)
    assert same(whole, cut, atol=0, rtol=0)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that hang up")
def test_a_terminal_that_closes_saves_and_nohup_is_respected(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    hang_up = lambda: os.kill(os.getpid(), signal.SIGHUP)  # noqa: E731
    try:
        with in_step(3, hang_up), pytest.raises(Stopped) as stopped:
            run(tmp_path)
        assert (stopped.value.signal_name, stopped.value.exit_code) == ("SIGHUP", 143)
        assert saved_steps(tmp_path) == [3]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
        with in_step(2, hang_up):
            assert run(tmp_path, resume=True).steps == 12
    finally:
        signal.signal(signal.SIGHUP, before)
