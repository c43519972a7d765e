"""Checkpoints: bit for bit, verified, whole, and only those that are needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from odd_shapes import spoilt
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from training_parts import Rows, adapter_of, in_step, metrics, run, saved_steps, tiny_model

from lora_s2s.errors import DataError, ResourceError, Stopped, UsageError
from lora_s2s.files import sha256_json
from lora_s2s.lora import token_rows
from lora_s2s.training import checkpoint as module
from lora_s2s.training import signals
from lora_s2s.training.checkpoint import newest_checkpoint, read_checkpoint
from lora_s2s.training.processes import computing_on
from lora_s2s.training.state import check_same_run


def stopped_run(
    folder: Path, *, after_steps: int = 5, number: int = signal.SIGTERM, **options: object
) -> Stopped:
    with (
        pytest.raises(Stopped) as caught,
        in_step(after_steps, lambda: os.kill(os.getpid(), number)),
    ):
        run(folder, **options)
    return caught.value


def without_clocks(lines: list[dict]) -> list[dict]:
    clocks = ("seconds", "tokens_per_second", "memory_bytes")
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines]


@pytest.mark.parametrize("after_steps", [1, 5, 8])
def test_stop_and_resume_is_bit_for_bit_the_uninterrupted_run(
    tmp_path: Path, after_steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # Dropout is on, so the random numbers count; 5 is in the middle of an epoch, 8 at the end of
    # one.
    whole = tiny_model(dropout=0.2)
    run(tmp_path / "whole", model=whole, schedule="cosine", weight_decay=0.1)
    options = {"schedule": "cosine", "weight_decay": 0.1}
    stopped_run(tmp_path / "cut", after_steps=after_steps, model=tiny_model(dropout=0.2), **options)
    again = tiny_model(dropout=0.2, seed=0)
    capsys.readouterr()
    result = run(tmp_path / "cut", model=again, resume=True, **options)
    assert result.resumed_from == after_steps
    speed = re.search(r"tokens/s ([\d,]+)", capsys.readouterr().err)
    assert result.steps == 12
    theirs = adapter_of(again)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in adapter_of(whole).items())
    lines = metrics(tmp_path / "cut")
    assert [line["step"] for line in lines] == list(range(1, 13))
    # The progress line tells the speed since the run was resumed.
    assert speed
    measured = lines[after_steps]["tokens_per_second"]
    assert float(speed[1].replace(",", "")) == pytest.approx(measured, abs=1)
    assert without_clocks(lines) == without_clocks(metrics(tmp_path / "whole"))


def test_averaged_weights_are_evaluated_kept_and_resumed(tmp_path: Path) -> None:
    plain, trained = tiny_model(), []
    expected = adapter_of(plain)
    options = {"model": plain, "max_steps": 7, "evaluate_every": 3}
    hook = register_optimizer_step_post_hook(lambda *_: trained.append(adapter_of(plain)))
    run(tmp_path / "plain", **options, evaluate=lambda _: {"validation_loss": 1.0})
    hook.remove()
    seen = []

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        seen.append(adapter_of(model))
        return {"validation_loss": 3.0 - len(seen)}

    averaged = tiny_model()
    how = {**options, "evaluate": evaluate, "ema": 0.4}
    run(tmp_path / "whole", **{**how, "model": averaged})
    by_step = []
    for step, weights in enumerate(trained[-7:], start=1):
        decay = min(0.4, (1 + step) / (10 + step))
        expected = {
            name: decay * tensor + (1 - decay) * weights[name] for name, tensor in expected.items()
        }
        by_step.append(expected)
    for held, step in zip(seen, (3, 6, 7), strict=True):
        for name, tensor in held.items():
            assert torch.allclose(tensor, by_step[step - 1][name], atol=1e-6)
    assert all(torch.equal(tensor, seen[-1][name]) for name, tensor in adapter_of(averaged).items())
    losses = [
        [line["loss"] for line in metrics(tmp_path / name) if "loss" in line]
        for name in ("plain", "whole")
    ]
    assert losses[0] == losses[1]  # the steps themselves are those without an average
    stopped_run(tmp_path / "cut", after_steps=4, **{**how, "model": tiny_model(), "evaluate": None})
    again = tiny_model(seed=0)
    run(tmp_path / "cut", **{**how, "model": again, "evaluate": None}, resume=True)
    assert all(torch.equal(tensor, seen[-1][name]) for name, tensor in adapter_of(again).items())
    with pytest.raises(UsageError, match=r"training.ema: checkpoint 0.4, now nothing"):
        run(tmp_path / "cut", **{**options, "model": tiny_model()}, resume=True)


def test_the_average_of_the_best_step_comes_back(tmp_path: Path) -> None:
    seen = []

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        seen.append(adapter_of(model))
        return {"validation_loss": [1.0, 2.0, 3.0][len(seen) - 1]}

    model = tiny_model()
    run(tmp_path, model=model, ema=0.5, evaluate=evaluate)
    assert all(torch.equal(tensor, seen[0][name]) for name, tensor in adapter_of(model).items())


def test_tokens_that_train_resume_bit_for_bit(tmp_path: Path) -> None:
    def model() -> torch.nn.Module:
        made = tiny_model()
        token_rows.add(made.get_base_model(), [5, 40, 95])
        return made

    options = {"weight_decay": 0.1, "lora_plus_ratio": 4}
    whole, again = model(), model()
    run(tmp_path / "whole", model=whole, **options)
    stopped_run(tmp_path / "cut", after_steps=5, model=model(), **options)
    run(tmp_path / "cut", model=again, resume=True, **options)
    theirs = adapter_of(again)
    assert [bool(tensor.all()) for name, tensor in theirs.items() if "token_rows" in name] == [True]
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in adapter_of(whole).items())


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "adamw-paged", "adamw-paged-8bit"])
def test_every_optimizer_resumes_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    # Wide enough for A to have the 4,096 numbers from which on the state is kept in 8 bits.
    options = {"optimizer": optimizer, "lora_plus_ratio": 4, "weight_decay": 0.1}
    whole, again = tiny_model(width=64, r=64), tiny_model(width=64, r=64)
    run(tmp_path / "whole", model=whole, **options)
    stopped_run(tmp_path / "cut", after_steps=3, model=tiny_model(width=64, r=64), **options)
    saved = load_file(tmp_path / "cut" / "checkpoints" / "step-000003" / "optimizer.safetensors")
    kept_in_bytes = {name for name, tensor in saved.items() if tensor.dtype == torch.uint8}
    assert bool(kept_in_bytes) == optimizer.endswith("8bit")
    assert all("lora_A" in name and saved[name].numel() >= 4096 for name in kept_in_bytes)
    run(tmp_path / "cut", model=again, resume=True, **options)
    theirs = adapter_of(again)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in adapter_of(whole).items())


def test_a_checkpoint_of_a_run_with_restores_resumes(tmp_path: Path) -> None:
    # Versions with `on_nonfinite: restore` counted how often they went back to a checkpoint.
    stopped_run(tmp_path, after_steps=5)
    path = tmp_path / "checkpoints" / "step-000005" / "state.json"
    content = json.loads(path.read_text())
    content["state"]["restores"] = 1
    del content["own_sha256"]
    path.write_text(json.dumps({**content, "own_sha256": sha256_json(content)}))
    assert run(tmp_path, resume=True).resumed_from == 5


def test_resume_after_a_kill_drops_the_lines_after_the_checkpoint(tmp_path: Path) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), in_step(7, die):
        run(tmp_path, save_every=4)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    result = run(tmp_path, resume=True, save_every=4)
    assert result.resumed_from == 4
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, 13))
    whole = run(tmp_path / "whole", save_every=4)
    assert (result.train_loss, result.tokens) == (whole.train_loss, whole.tokens)


def test_a_checkpoint_holds_safetensors_and_json_only(tmp_path: Path) -> None:
    run(tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints" / "step-000012").iterdir())
    assert names == ["adapter.safetensors", "optimizer.safetensors", "state.json"]
    state = read_checkpoint(tmp_path / "checkpoints" / "step-000012").state
    assert (state.step, state.epoch, state.position) == (12, 3, 0)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "flipped bit": flip,
    "cut": lambda path: os.truncate(path, 10),
    "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    checkpointed: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGE[damage](checkpointed / "checkpoints" / "step-000012" / name)
    found = newest_checkpoint(checkpointed / "checkpoints")
    assert found is not None
    assert found.state.step == 8
    assert f"step-000012/{name}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder, save_every=4, keep_checkpoints=2)
    return folder


@pytest.fixture
def checkpointed(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_a_damaged_state_number_never_resumes_silently(checkpointed: Path) -> None:
    path = checkpointed / "checkpoints" / "step-000012" / "state.json"
    content = json.loads(path.read_text())
    content["state"]["tokens"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="hash"):
        read_checkpoint(path.parent)


def test_all_damaged_is_a_data_error_not_a_fresh_start(checkpointed: Path) -> None:
    for path in (checkpointed / "checkpoints").glob("step-*"):
        flip(path / "adapter.safetensors")
    with pytest.raises(DataError, match="every checkpoint"):
        run(checkpointed, resume=True)


def test_resuming_past_a_damaged_one_replaces_it(checkpointed: Path) -> None:
    flip(checkpointed / "checkpoints" / "step-000012" / "adapter.safetensors")
    assert run(checkpointed, resume=True, save_every=3, keep_checkpoints=1).resumed_from == 8
    assert saved_steps(checkpointed) == [12]
    assert read_checkpoint(checkpointed / "checkpoints" / "step-000012").state.step == 12


def test_another_run_is_refused_with_every_difference(checkpointed: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run(
            checkpointed,
            resume=True,
            learning_rate=0.02,
            gradient_accumulation=1,
            identity={"data": "other"},
        )
    message = str(caught.value)
    assert "training.learning_rate: checkpoint 0.01, now 0.02" in message
    assert "training.gradient_accumulation: checkpoint 2, now 1" in message
    assert "data: checkpoint nothing, now other" in message


def test_what_is_kept_and_shown_may_change_on_resume(checkpointed: Path) -> None:
    assert run(checkpointed, resume=True, save_every=7, keep_checkpoints=5).resumed_from == 12


def test_a_finished_folder_is_not_trained_over(checkpointed: Path) -> None:
    with pytest.raises(UsageError, match="unfinished run"):
        run(checkpointed)


def test_resume_without_a_checkpoint_starts(tmp_path: Path) -> None:
    assert run(tmp_path, resume=True, max_steps=1).resumed_from is None


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    losses = iter([5.0, 1.0, 4.0, 3.0, 2.0, 6.0])
    run(
        tmp_path,
        evaluate=lambda _: {"validation_loss": next(losses)},
        evaluate_every=2,
        save_every=1,
        keep_checkpoints=2,
    )
    assert saved_steps(tmp_path) == [4, 11, 12]


def test_unfinished_staging_folders_go(tmp_path: Path) -> None:
    staged = tmp_path / "checkpoints" / ".step-000004.abc"
    staged.mkdir(parents=True)
    run(tmp_path)
    assert not staged.exists()


def test_a_full_disk_is_a_resource_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _tensors: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_tensors", full)
    with pytest.raises(ResourceError, match="disk is full"):
        run(tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_at_a_step_boundary(tmp_path: Path, number: int, code: int) -> None:
    before = signal.getsignal(number)
    error = stopped_run(tmp_path, after_steps=3, number=number)
    assert error.exit_code == code
    assert "step 3 of 12" in error.message
    assert saved_steps(tmp_path) == [3]
    assert signal.getsignal(number) == before


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="at once"), in_step(2, twice):
        run(tmp_path)
    assert saved_steps(tmp_path) == []


def test_what_a_launcher_passes_on_is_the_same_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches every process of the terminal, and the launcher sends it once more."""

    def passed_on() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(signals, "launched_processes", lambda: 2)
    with pytest.raises(Stopped, match="after step 2 of 12"), in_step(2, passed_on):
        run(tmp_path)
    monkeypatch.setattr(signals, "_ECHO", 0)
    with pytest.raises(Stopped, match="at once"), in_step(2, passed_on):
        run(tmp_path / "again")


def test_a_stop_before_a_due_evaluation_leaves_it_to_the_resumed_run(tmp_path: Path) -> None:
    def evaluate(_: object) -> dict[str, float]:
        evaluations.append(1.0)
        return {"validation_loss": 1.0}

    def die() -> None:
        raise KeyboardInterrupt

    evaluations: list[float] = []
    stopped_run(tmp_path, after_steps=4, evaluate=evaluate)
    assert not [line for line in metrics(tmp_path) if "validation_loss" in line]
    # The resumed run evaluates and saves that, so that it is not done again after a kill.
    with pytest.raises(KeyboardInterrupt), in_step(2, die):  # the first restores the optimizer
        run(tmp_path, resume=True, evaluate=evaluate)
    run(tmp_path, rows=Rows(24), resume=True, evaluate=evaluate)
    assert len(evaluations) == 3
    assert [line["step"] for line in metrics(tmp_path) if "validation_loss" in line] == [4, 8, 12]


def test_a_resumed_run_computes_on_as_many_threads_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    count = lambda: used.append(torch.get_num_threads())  # noqa: E731
    monkeypatch.setattr(module, "USER_SET_THREADS", False)
    monkeypatch.setattr(module, "usable_processors", lambda: 2)
    with computing_on(2):
        stopped_run(tmp_path, after_steps=2)
    with computing_on(1):
        with in_step(2, count):
            stopped_run(tmp_path, after_steps=2, resume=True)
        assert torch.get_num_threads() == 1
        assert "threads: 2, as before; OMP_NUM_THREADS=1 sets another" in capsys.readouterr().err
        # The user's own number stays, and so does that of a machine with fewer processors.
        monkeypatch.setattr(module, "USER_SET_THREADS", True)
        with in_step(2, count):
            stopped_run(tmp_path, after_steps=2, resume=True)
        note = "warning: the checkpoint was made on 2 threads; now 1: the last digits differ"
        assert note in capsys.readouterr().err
        with in_step(1, count):
            run(tmp_path, resume=True)
    assert "threads" not in capsys.readouterr().err
    assert used == [2, 1, 1]
    monkeypatch.setattr(module, "USER_SET_THREADS", False)
    monkeypatch.setattr(module, "usable_processors", lambda: 1)
    with computing_on(2):
        stopped_run(tmp_path / "many", after_steps=2)
    with computing_on(1):
        run(tmp_path / "many", resume=True)
    assert note in capsys.readouterr().err


def test_another_device_is_noted_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, max_steps=3, identity={"device": "CPU (AVX2)"})
    again = {"max_steps": 3, "identity": {"device": "CPU (AVX512)"}, "resume": True}
    assert run(tmp_path, **again).steps == 3
    note = "made on another device: CPU (AVX2); now CPU (AVX512): the last digits differ"
    assert capsys.readouterr().err.count(note) == 1
    # Beside what stops a resume it is one of the differences that are listed.
    with pytest.raises(UsageError, match=r"device: checkpoint CPU \(AVX2\), now CPU") as told:
        run(tmp_path, **{**again, "max_steps": 4})
    assert "resume_anyway=True" in str(told.value.hint)
    # Older checkpoints do not say, nor does one of undivided weights.
    assert check_same_run(tmp_path, {"training.sharding": "full"}, {}, anyway=False) == [
        "the checkpoint was made with another training.sharding: full; now none: the last digits "
        "differ"
    ]
    run(tmp_path / "older", max_steps=3)
    capsys.readouterr()
    run(tmp_path / "older", **again)
    assert "another device:" not in capsys.readouterr().err


def test_a_state_of_another_shape_is_a_damaged_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, max_steps=2)
    folder = tmp_path / "checkpoints" / "step-000002"
    content = json.loads((folder / "state.json").read_text())
    del content["own_sha256"]
    content["identity"] = {"dtype": content["identity"].get("dtype", "torch.float32")}
    for what, changed in spoilt(content):
        sealed = (
            {**changed, "own_sha256": sha256_json(changed)}
            if isinstance(changed, dict)
            else changed
        )
        (folder / "state.json").write_text(json.dumps(sealed))
        if what in HARMLESS:
            assert read_checkpoint(folder).path == folder
            continue
        with pytest.raises(DataError):
            read_checkpoint(folder)
            pytest.fail(what)


HARMLESS = {
    "identity.dtype = 'x'",
    "identity.dtype = nothing",
    "state.best_by = 'x'",
    "state.best_score = -1.5",
    *(
        f"state.{key} = None"
        for key in ("best_step", "best_score", "best_validation_loss", "validation_loss", "forward")
    ),
    "state.forward = 'x'",
}


def test_numbers_as_large_as_a_recipe_takes_end_in_a_run(tmp_path: Path) -> None:
    for number, options in enumerate(
        [{"packing": True}, {"gradient_accumulation": 2**40}, {"warmup": 2**40}]
    ):
        result = run(
            tmp_path / str(number), max_steps=1, tokens_per_batch=2**40, batch_size=None, **options
        )
        assert result.steps == 1
