"""What a run does: learns, evaluates when due, keeps the better adapter, stops on what is not
finite.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from training_parts import Rows, adapter_of, metrics, run, saved_steps, section, tiny_model

from lora_s2s.data.collate import collate
from lora_s2s.errors import DataError, ResourceError, RunError, SetupError, UsageError
from lora_s2s.training.checkpoint import newest_checkpoint
from lora_s2s.training.loop import train_step
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.state import Goal
from lora_s2s.training.validation import make_validation

ROOT = Path(__file__).parents[2]


def scores(*losses: float) -> Callable[[object], dict[str, float]]:
    left = iter(losses)
    return lambda _: {"validation_loss": next(left)}


def test_it_learns_and_reports(tmp_path: Path) -> None:
    model, rows = tiny_model(), Rows(24)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    validate = make_validation(rows, pad_token_id=0, batch_size=5)
    before = validate(model)["validation_loss"]
    result = run(tmp_path, model=model, rows=rows, max_steps=60, evaluate=validate)
    assert result.validation_loss == pytest.approx(validate(model)["validation_loss"])
    assert result.validation_loss < before - 0.2
    assert result.tokens == 15 * (rows.source_lengths.sum() + rows.target_lengths.sum())
    assert (result.steps, result.epochs, result.stopped, result.resumed_from) == (
        60,
        15.0,
        None,
        None,
    )
    assert result.tokens_per_second > 0
    assert result.peak_memory_bytes > 50 * 2**20
    assert not model.training
    assert all(
        torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen
    )


def test_a_metrics_line_a_step(tmp_path: Path) -> None:
    rows = Rows(24)
    run(tmp_path, rows=rows, max_steps=5)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["epoch"] for line in lines] == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert set(lines[0]) == {
        "step",
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "target_tokens",
        "source_tokens",
        "tokens_per_second",
        "memory_bytes",
        "seconds",
        "skipped",
    }
    assert sum(line["target_tokens"] for line in lines[:4]) == rows.target_lengths.sum()
    assert sum(line["source_tokens"] for line in lines[:4]) == rows.source_lengths.sum()


@pytest.mark.parametrize(("epochs", "steps"), [(0.1, 1), (0.5, 2), (1, 4), (2.6, 11)])
def test_epochs_may_be_fractions(tmp_path: Path, epochs: float, steps: int) -> None:
    assert run(tmp_path, max_steps=None, epochs=epochs).steps == steps


def test_the_last_step_of_an_epoch_may_be_short(tmp_path: Path) -> None:
    # 22 rows in batches of 3 are 8 batches, the last of one row; in steps of 3 batches: 3, 3 and 2.
    rows = Rows(22)
    run(tmp_path, rows=rows, gradient_accumulation=3, max_steps=None, epochs=1)
    lines = metrics(tmp_path)
    assert len(lines) == 3
    assert sum(line["target_tokens"] for line in lines) == rows.target_lengths.sum()


@pytest.mark.parametrize(
    ("every", "total", "due"), [(0, 12, [4, 8, 12]), (0, 10, [4, 8, 10]), (5, 12, [5, 10, 12])]
)
def test_evaluations_when_due_and_always_at_the_end(
    tmp_path: Path, every: int, total: int, due: list[int]
) -> None:
    run(
        tmp_path,
        evaluate_every=every,
        max_steps=total,
        evaluate=lambda _: {"validation_loss": 1.0, "other": 2.0},
    )
    lines = [line for line in metrics(tmp_path) if "validation_loss" in line]
    assert [line["step"] for line in lines] == due
    assert lines[0]["other"] == 2.0


def test_the_best_adapter_is_kept(tmp_path: Path) -> None:
    seen = []

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        seen.append(adapter_of(model))
        return {"validation_loss": [3.0, 1.0, 2.0][len(seen) - 1]}

    model = tiny_model()
    result = run(tmp_path, model=model, evaluate=evaluate)
    assert (result.kept, result.kept_step, result.validation_loss, result.steps) == (
        "best",
        8,
        1.0,
        12,
    )
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in adapter_of(model).items())


def test_without_validation_the_last_is_kept(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert (result.kept, result.kept_step, result.validation_loss) == ("last", 12, None)


def test_a_damaged_best_falls_back_to_the_last_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = iter([1.0, 2.0])

    def evaluate(_: object) -> dict[str, float]:
        loss = next(left)
        if loss == 2.0:
            (tmp_path / "checkpoints" / "step-000004" / "adapter.safetensors").write_bytes(b"")
        return {"validation_loss": loss}

    result = run(tmp_path, max_steps=8, evaluate=evaluate)
    assert (result.kept, result.kept_step, result.validation_loss) == ("last", 8, 2.0)
    assert "best checkpoint is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("losses", "kept", "saved"),
    [((3.0, 2.0, 2.0, 2.5), 4, [4, 8]), ((3.0, 2.0, 1.99995, 1.9999), 8, [6, 8])],
)
def test_early_stopping_counts_evaluations_without_gain(
    tmp_path: Path, losses: tuple[float, ...], kept: int, saved: list[int]
) -> None:
    evaluate = scores(*losses)
    result = run(tmp_path, max_steps=100, early_stopping=2, evaluate_every=2, evaluate=evaluate)
    assert (result.steps, result.stopped, result.kept_step) == (8, "early_stopping", kept)
    assert saved_steps(tmp_path) == saved


@pytest.mark.parametrize(
    ("losses", "patience", "noticed"),
    [
        ((2.0, 1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0), 0, True),
        ((2.0, 1.0, 1.0, 1.5, 0.9, 2.0, 2.0, 2.0, 2.0), 0, False),  # the third is in the last third
        ((2.0, 1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0), 8, False),  # it ends by itself
    ],
)
def test_a_run_that_stands_still_says_once_how_to_end_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    losses: tuple[float, ...],
    patience: int,
    noticed: bool,
) -> None:
    how = {"max_steps": 18, "evaluate_every": 2, "early_stopping": patience}
    run(tmp_path, evaluate=scores(*losses), **how)
    text = capsys.readouterr().err
    line = "no gain in the last 3 validations; the best is that of step 4, and a falling learning "
    line += "rate may still bring a gain. To end"
    assert text.count("no gain in the last ") == noticed == text.count(line)
    if noticed:
        after = text.partition("step 10: validation loss 2.0000\n")[2]
        assert after.startswith(line)
        assert "the same call with resume=True and training.early_stopping=3" in after
    share = scores(*losses)  # a sweep's trial goes on in shares of its steps
    run(tmp_path / "trial", evaluate=share, share=0.7, **how)
    assert "no gain in" not in capsys.readouterr().err


def test_a_run_whose_answers_are_right_says_once_how_to_end_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Rows(24)
    nats = 0.03 / np.mean(rows.target_lengths)  # a token, for a probability of 0.97 an answer
    losses = (3.0, 1.1 * nats, 0.9 * nats, 0.8 * nats, *[nats] * 5)
    how = {"max_steps": 18, "evaluate_every": 2, "rows": rows}
    run(tmp_path / "early", evaluate=scores(*losses), **how)
    text = capsys.readouterr().err
    line = "the right answers have a probability of 97% on average; the best is that of step 6, and"
    assert text.count("have a probability of ") == text.count(line) == 1
    assert "the same call with resume_anyway=True and training.max_steps=6" in text
    run(tmp_path / "late", evaluate=scores(*[3.0] * 3, 2.0, 1.0, 0.9, *[nats / 2] * 3), **how)
    assert "have a probability" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "enough"),
    [(8, 0.002 / 8), (400, 0.0001)],  # 0.998 an answer; no later loss is lower by a gain
)
def test_a_run_that_has_nothing_left_to_gain_ends(
    target: int, enough: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"max_steps": 12, "evaluate_every": 2, "rows": Rows(24)}
    how["rows"].target_lengths[:] = target
    more, less = 1.05 * enough, 0.95 * enough
    ended = run(tmp_path / "ended", evaluate=scores(2.0, more, less), **how)
    assert (ended.steps, ended.stopped, ended.kept_step) == (6, "early_stopping", 6)
    said = (
        f"the run ends here: the right answers have a probability of {math.exp(-less * target):.1%}"
    )
    assert f"step 6: validation loss {less:.4f}\n{said}" in capsys.readouterr().err
    going = run(tmp_path / "going", evaluate=scores(*[more] * 5, less), **how)
    assert (going.steps, going.stopped) == (12, None)
    assert "the run ends" not in capsys.readouterr().err

    def evaluate(_: object) -> dict[str, float]:
        return {"validation_loss": 0.0, "mine": 0.0}

    other = run(tmp_path / "other", evaluate=evaluate, goal=Goal("mine", False), **how)
    assert other.steps == 12


@pytest.mark.parametrize(
    ("lower", "values", "kept"),
    [(False, (1.0, 3.0, 3.0, 2.0), 4), (True, (4.0, math.nan, -2.0, -2.0), 6)],
)
def test_any_score_decides_what_is_kept_and_when_to_stop(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lower: bool,
    values: tuple[float, ...],
    kept: int,
) -> None:
    left = iter(values)

    def evaluate(_: object) -> dict[str, float]:
        return {"validation_loss": 9.0, "mine": next(left)}

    goal = Goal("mine", lower_is_better=lower)
    how = {"evaluate_every": 2, "goal": goal, "evaluate": evaluate, "max_steps": 8}
    result = run(tmp_path, early_stopping=2, **how)
    assert (result.steps, result.kept_step, result.kept_by) == (8, kept, "mine")
    assert (result.kept_score, result.validation_loss) == (values[kept // 2 - 1], 9.0)
    lines = [line for line in metrics(tmp_path) if "validation_loss" in line]
    assert [line.get("mine") for line in lines] == [x if x == x else None for x in values]
    assert f"step 2: validation loss 9.0000, mine {values[0]:.2f}" in capsys.readouterr().err
    again = run(tmp_path, resume=True, **how)  # the state has the best
    assert (again.kept_step, again.kept_score) == (result.kept_step, result.kept_score)


@pytest.mark.parametrize("key", ["early_stopping=1", "best_metric=chrf", "scored_sources=5"])
def test_what_is_watched_needs_validation(tmp_path: Path, key: str) -> None:
    name, _, value = key.partition("=")
    with pytest.raises(UsageError, match=f"training.{name} needs validation data"):
        run(tmp_path, **{name: int(value) if value.isdigit() else value})


def test_clipping_bounds_the_gradient_and_reports_its_norm(tmp_path: Path) -> None:
    free, clipped = tiny_model(), tiny_model()
    run(tmp_path / "free", model=free, max_grad_norm=0, max_steps=1)
    run(tmp_path / "clipped", model=clipped, max_grad_norm=1e-9, max_steps=1)
    norms = [metrics(tmp_path / name)[0]["grad_norm"] for name in ("free", "clipped")]
    assert norms[0] == norms[1] > 1e-3
    start, ends = adapter_of(tiny_model()), [adapter_of(model) for model in (free, clipped)]
    moved = [sum(float((end[name] - start[name]).abs().sum()) for name in start) for end in ends]
    # AdamW's first step has the size of the learning rate unless the gradient nears its epsilon of
    # 1e-8.
    assert moved[1] < 0.2 * moved[0]


def half_model() -> Any:
    """The tiny model with a float16 base; the adapter stays float32."""
    model = tiny_model()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.half()
    return model


def test_small_gradients_of_a_float16_base_are_not_lost(tmp_path: Path) -> None:
    norms = {}
    for name, model in {"float32": tiny_model(), "float16": half_model()}.items():
        with torch.no_grad():
            model.base_model.model.decoder.final_layer_norm.weight /= 2**13
        run(tmp_path / name, model=model, max_steps=3)
        norms[name] = [line["grad_norm"] for line in metrics(tmp_path / name)]
    assert max(norms["float32"]) < 1e-3
    assert norms["float16"] == pytest.approx(norms["float32"], rel=0.03)


def test_a_gradient_that_overflows_float16_is_taken_again_smaller(tmp_path: Path) -> None:
    ends, largest = {}, []
    for name, limit in {"free": float("inf"), "bounded": 1.0}.items():
        model = half_model()

        def overflow(gradient: torch.Tensor, limit: float = limit) -> torch.Tensor:
            largest.append(float(gradient.abs().max()))
            return gradient * float("inf") if largest[-1] > limit else gradient

        next(p for p in model.parameters() if p.requires_grad).register_hook(overflow)
        run(tmp_path / name, model=model, max_steps=3)
        ends[name] = adapter_of(model)
    assert max(largest) > 1.0
    # A weight whose gradient is nearly 0 moves by its rounding, since Adam divides by its size.
    apart = [(ends["bounded"][name] - end).abs().mean() for name, end in ends["free"].items()]
    assert float(torch.stack(apart).max()) < 2e-4


@pytest.mark.parametrize("at_step", [1, 6])
def test_a_loss_that_is_not_finite_stops_within_the_step(tmp_path: Path, at_step: int) -> None:
    model = tiny_model()

    def poison(*_: object) -> dict[str, float]:
        with torch.no_grad():
            model.get_input_embeddings().weight.fill_(float("nan"))
        return {"validation_loss": 1.0}

    evaluate = poison if at_step > 1 else None
    if evaluate is None:
        poison()
    with pytest.raises(RunError, match=f"step {at_step}: the loss is nan") as caught:
        run(tmp_path, model=model, evaluate=evaluate, evaluate_every=5, save_every=2)
    assert "learning_rate" in str(caught.value.hint)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in adapter_of(model).values())
    last = newest_checkpoint(tmp_path / "checkpoints")
    assert (last.state.step if last else 0) == at_step - 1


def test_a_validation_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="step 4: the validation loss is nan"):
        run(tmp_path, evaluate=scores(float("nan")))


def test_an_empty_table_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 rows"):
        run(tmp_path, rows=Rows(0))


def test_a_row_without_targets_is_a_data_error(tmp_path: Path) -> None:
    rows = Rows(3)
    rows.target_lengths[1] = 0
    with pytest.raises(DataError, match="no target"):
        run(tmp_path, rows=rows)


def test_a_tracker_that_is_not_installed_is_told_before_training(tmp_path: Path) -> None:
    sys.modules.pop("trackio", None)
    with pytest.raises(SetupError) as caught:
        run(tmp_path, trackers=["trackio"])
    assert "pip install trackio" in str(caught.value.hint)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_out_of_memory_is_a_resource_error(tmp_path: Path) -> None:
    def evaluate(_: object) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ResourceError, match="out of memory") as caught:
        run(tmp_path, evaluate=evaluate)
    assert "tokens_per_batch" in str(caught.value.hint)


def test_another_runtime_error_is_not_called_out_of_memory(tmp_path: Path) -> None:
    def evaluate(_: object) -> dict[str, float]:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run(tmp_path, evaluate=evaluate)


def test_one_run_to_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lora_s2s.training.run_lock import run_lock\n"
        f"with run_lock(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another run"):
            run(tmp_path, max_steps=1)
        other.communicate()
    assert run(tmp_path, max_steps=1).steps == 1


def test_the_same_run_twice_is_the_same(tmp_path: Path) -> None:
    first, second = tiny_model(dropout=0.1), tiny_model(dropout=0.1)
    run(tmp_path / "a", model=first)
    torch.rand(7)  # whatever else drew random numbers in between
    run(tmp_path / "b", model=second)
    theirs = adapter_of(second)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in adapter_of(first).items())


def test_dropout_is_active_while_training(tmp_path: Path) -> None:
    quiet, noisy = tiny_model(), tiny_model(dropout=0.3)
    run(tmp_path / "quiet", model=quiet, max_steps=1)
    run(tmp_path / "noisy", model=noisy, max_steps=1)
    assert metrics(tmp_path / "quiet")[0]["loss"] != metrics(tmp_path / "noisy")[0]["loss"]


def test_every_step_draws_its_own_dropout(tmp_path: Path) -> None:
    # One row and a rate that moves nothing: only the random numbers of the steps differ.
    one_row = {"rows": Rows(1), "batch_size": 1, "gradient_accumulation": 1}
    run(tmp_path, model=tiny_model(dropout=0.3), learning_rate=1e-30, max_steps=4, **one_row)
    assert len({line["loss"] for line in metrics(tmp_path)}) == 4


def test_every_process_draws_its_own_dropout() -> None:
    model, rows = tiny_model(dropout=0.3), Rows(3)
    batch = collate([rows.features(row) for row in range(3)], 0)
    optimizer = torch.optim.SGD([{"params": [*adapter_parameters(model)], "rate": 1.0}], lr=0.0)

    def loss(rank: int) -> float:
        process = SimpleNamespace(
            device=torch.device("cpu"),
            process_index=rank,
            num_processes=1,
            reduce=lambda tensor, reduction: tensor,
        )
        options = {"step": 3, "learning_rate": 0.0, "settings": section()}
        return train_step(model, optimizer, [batch], accelerator=process, **options).loss

    assert loss(0) == loss(0) != loss(1)


def adapter_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def test_every_epoch_has_all_rows_in_an_order_of_its_own() -> None:
    plan = StepPlan(Rows(24), section())
    epochs = [[rows for step in plan.steps(epoch) for rows in step] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    assert [sorted(row for rows in epoch for row in rows) for epoch in epochs] == [
        list(range(24))
    ] * 2
    assert list(StepPlan(Rows(24), section()).steps(1)) == list(plan.steps(1))
    assert list(StepPlan(Rows(24), section(seed=1)).steps(1)) != list(plan.steps(1))


PACKED = {"batch_size": None, "tokens_per_batch": 48, "packing": True}


def test_a_packed_run_has_every_row_in_fewer_batches(tmp_path: Path) -> None:
    rows = Rows(24)
    padded, packed = (
        StepPlan(rows, section(**{**PACKED, "packing": on}, gradient_accumulation=1))
        for on in (0, 1)
    )
    assert sorted(row for step in packed.steps(0) for batch in step for row in batch) == list(
        range(24)
    )
    assert len(packed.steps(0)) < len(padded.steps(0))
    result = run(tmp_path, rows=rows, max_steps=None, epochs=2, **PACKED)
    assert result.tokens == 2 * (rows.source_lengths.sum() + rows.target_lengths.sum())


@pytest.mark.parametrize("packing", [False, True])
def test_rows_longer_than_a_batch_are_counted_once(
    tmp_path: Path, packing: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Rows(24)
    rows.source_lengths[:2] = 60
    run(tmp_path, rows=rows, **{**PACKED, "packing": packing})
    said = "2 rows longer than training.tokens_per_batch=48: each a batch of its own"
    assert capsys.readouterr().err.count(said) == 1


def test_validation_is_weighted_by_tokens_and_repeatable() -> None:
    model, rows = tiny_model(dropout=0.3), Rows(10)
    model.train()
    by_one, by_four = (make_validation(rows, pad_token_id=0, batch_size=size) for size in (1, 4))
    first = by_one(model)["validation_loss"]
    assert model.training
    assert by_one(model)["validation_loss"] == first
    assert by_four(model)["validation_loss"] == pytest.approx(first, abs=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_validation_of_no_rows_is_a_data_error() -> None:
    with pytest.raises(DataError, match="0 rows"):
        make_validation(Rows(0), pad_token_id=0, batch_size=1)
