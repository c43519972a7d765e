"""Which forward a run takes, what it says of it, and that results stay the same where the fast one
is not for it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from parity import adapted, batch_of

from lora_s2s.data.collate import collate
from lora_s2s.errors import UsageError, ran_out_of_memory
from lora_s2s.fast_t5 import attention, choose, operations, t5
from lora_s2s.fast_t5.choose import VARIABLE, fast_forward, fast_states
from lora_s2s.fast_t5.layout import layout_of
from lora_s2s.models.loading import enable_gradient_checkpointing
from lora_s2s.models.t5_parts import relative_bias, stacks_of
from lora_s2s.training.loss import sequence_loss


def loss_inside(model: Any) -> tuple[float, bool]:
    """The loss of a batch inside ``fast_forward``, and whether the fast one computed it."""
    with fast_forward(model):
        loss, _ = sequence_loss(model, batch_of())
        again, _ = sequence_loss(model, batch_of())
        assert float(again.detach()) == pytest.approx(float(loss.detach()), rel=1e-6)
        return float(loss.detach()), fast_states(model, batch_of()) is not None


def test_the_fast_one_is_taken_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = adapted(tmp_path)
    capsys.readouterr()
    assert loss_inside(model)[1]
    assert capsys.readouterr().err == ""


def test_the_environment_forces_hf_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(tmp_path)
    fast = loss_inside(model)[0]
    monkeypatch.setenv(VARIABLE, "reference")
    found, was_fast = loss_inside(model)
    assert (found, was_fast) == (pytest.approx(fast, rel=1e-5), False)
    assert capsys.readouterr().err.count(VARIABLE) == 1
    monkeypatch.setenv(VARIABLE, "slow")
    with pytest.raises(UsageError, match="'slow', expected fast or reference"):
        loss_inside(model)


@pytest.mark.parametrize("row", ["LongT5 (local)", "BART", "T5Gemma"])
def test_a_family_without_one_keeps_hf_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str
) -> None:
    model = adapted(tmp_path, row)
    expected = float(sequence_loss(model, batch_of())[0].detach())
    found, was_fast = loss_inside(model)
    assert (found, was_fast) == (pytest.approx(expected, rel=1e-5), False)
    assert capsys.readouterr().err.count("the fast one does not support this base") == 1


@pytest.mark.parametrize("row", ["LongT5 (local)", "LongT5 (transient-global)", "T5 v1.0"])
def test_tokens_train_in_hf_s_forward_too(
    tmp_path: Path, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    model, batch = adapted(tmp_path, row, train_tokens=[0, 3, 40, 95]), batch_of()
    with fast_forward(model):
        loss, tokens = sequence_loss(model, batch)
    mean = model(
        input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, labels=batch.labels_BT
    ).loss
    assert float(loss.detach()) / tokens == pytest.approx(float(mean.detach()), rel=1e-5)
    rows = [parameter for name, parameter in model.named_parameters() if "token_rows" in name]
    for found, expected in zip(
        torch.autograd.grad(loss / tokens, rows), torch.autograd.grad(mean, rows), strict=True
    ):
        assert bool(found.abs().sum(1).all())
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_family_of_another_shape_trains_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"T5-shaped models, and .* is a BART"):
        adapted(tmp_path, "BART", train_tokens=[3])


def test_a_difference_is_noticed_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(tmp_path)
    expected = float(sequence_loss(model, batch_of())[0].detach())
    monkeypatch.setattr(t5, "head_scale", lambda _config: 1.01)
    found, was_fast = loss_inside(model)
    assert (found, was_fast) == (pytest.approx(expected, rel=1e-5), False)
    assert capsys.readouterr().err.count("its loss is ") == 1


def test_a_wrong_gradient_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(tmp_path)
    monkeypatch.setattr(operations, "_norm_backward", lambda slope, *_: slope)
    assert not loss_inside(model)[1]
    assert "its gradients differ by" in capsys.readouterr().err


def test_a_weight_of_the_base_that_trains_keeps_hf_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = adapted(tmp_path)
    model.get_base_model().shared.weight.requires_grad_()
    assert not loss_inside(model)[1]
    assert "shared.weight is trained" in capsys.readouterr().err


def test_flex_attention_is_the_grouped_one(tmp_path: Path) -> None:
    """Its GPU kernel is not to be had here; torch's own slow form of the same masks and table
    is.
    """
    model = adapted(tmp_path).get_base_model()
    encoder, decoder = stacks_of(model, operations.ACTIVATIONS)
    for lengths in (((9, 4), (1, 1), (30, 11), (30, 2)), ((300, 140), (200, 5), (7, 7))):
        layout = layout_of(batch_of(lengths), model.config)
        grouped, packed = (
            kind(layout, dropout=0.0)
            for kind in (attention.GroupedAttention, attention.PackedAttention)
        )
        torch.manual_seed(0)
        sources, targets = (
            [torch.randn(len(ids), 128) for _ in range(3)]
            for ids in (layout.source_ids_N, layout.decoder_ids_M)
        )
        with torch.no_grad():
            for name, inputs in {
                "encoder": (*sources, 4, encoder.relative(encoder.blocks[0])),
                "decoder": (*targets, 4, decoder.relative(decoder.blocks[0])),
                "cross": (targets[0], *sources[1:], 4),
            }.items():
                expected, found = (getattr(kind, name)(*inputs) for kind in (grouped, packed))
                assert torch.allclose(found, expected, atol=2e-5), name


def test_compiled_pieces_are_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU each piece is one kernel; here the same functions are traced and run without a
    compiler.
    """
    monkeypatch.setattr(operations, "COMPILED_ON", {"cpu"})
    monkeypatch.setattr(operations, "_BACKEND", "eager")
    model = adapted(tmp_path, target_modules="all-linear")
    loss_fast, was_fast = loss_inside(model)
    assert was_fast
    assert loss_fast == pytest.approx(float(sequence_loss(model, batch_of())[0].detach()), rel=1e-5)


class TritonError(Exception):
    """Triton's errors are no RuntimeErrors."""


def no_compiler(*_: Any, **__: Any) -> Any:
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")


def no_triton(*_: Any, **__: Any) -> Any:
    def call(*_: Any) -> Any:
        raise TritonError("out of resource: shared memory")

    return call


def no_process(*_: Any, **__: Any) -> Any:
    def call(*_: Any) -> Any:
        raise subprocess.CalledProcessError(1, "ptxas")

    return call


def failing_backend(*_: Any) -> Any:
    raise FileNotFoundError("no file or directory: 'gcc'")


@pytest.mark.parametrize(
    ("broken", "dropout"),
    [(no_compiler, 0.1), (no_triton, 0.1), (no_process, 0.0), (failing_backend, 0.1)],
)
def test_pieces_that_cannot_be_compiled_run_as_they_are(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    broken: Any,
    dropout: float,
) -> None:
    """With dropout in the base too, where one kind of attention alone may serve."""
    model = adapted(tmp_path, target_modules="all-linear")
    model.config.dropout_rate = dropout
    model.train()
    plain, _ = with_seed(model)
    monkeypatch.setattr(operations, "COMPILED_ON", {"cpu"})
    if broken is failing_backend:
        monkeypatch.setattr(operations, "_BACKEND", broken)
    else:
        monkeypatch.setattr(torch, "compile", broken)
        monkeypatch.setattr(
            operations, "_BACKEND", broken.__name__
        )  # what was compiled before is not asked for
    capsys.readouterr()
    found, was_fast = with_seed(model)
    assert (found, was_fast) == (plain, True)
    assert capsys.readouterr().err.count("operations are not compiled: ") == 1


def raising(error: Exception) -> Any:
    def full(*_: Any, **__: Any) -> Any:
        raise error

    return full


def with_seed(model: Any) -> tuple[float, bool]:
    torch.manual_seed(0)
    with fast_forward(model):
        loss, _ = sequence_loss(model, batch_of())
        loss.backward()
        return float(loss.detach()), fast_states(model, batch_of()) is not None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_no_reason_to_compute_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(operations, "COMPILED_ON", {"cpu"})
    monkeypatch.setattr(torch, "compile", raising(error))
    monkeypatch.setattr(operations, "_BACKEND", "none")
    assert ran_out_of_memory(error)
    with pytest.raises(type(error)):
        loss_inside(adapted(tmp_path))


def test_a_first_batch_that_runs_out_of_memory_is_compared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = adapted(tmp_path), choose._difference
    monkeypatch.setattr(choose, "_difference", raising(torch.OutOfMemoryError("full")))
    with fast_forward(model):
        with pytest.raises(torch.OutOfMemoryError):
            sequence_loss(model, batch_of())
        monkeypatch.setattr(choose, "_difference", real)
        assert fast_states(model, batch_of()) is not None


def test_a_checkpointed_base_compares_fewer_tokens(tmp_path: Path) -> None:
    model, seen = adapted(tmp_path), []
    rows = [SimpleNamespace(input_ids=[5] * 200, labels=[6] * 40)] * 4
    real = model.forward
    for checkpointing in (False, True):
        if checkpointing:
            enable_gradient_checkpointing(model)
        model.forward = lambda **given: (seen.append(given["input_ids"].numel()), real(**given))[1]
        with fast_forward(model):
            assert fast_states(model.train(), collate(rows, 0)) is not None
    assert seen == [800, 200]


def test_attention_need_not_copy_the_bias_for_each_row(tmp_path: Path) -> None:
    base = adapted(tmp_path).get_base_model()
    relative = base.encoder.block[0].layer[0].SelfAttention
    assert relative_bias(relative, 9, torch.device("cpu")).is_contiguous()


def test_what_only_mentions_memory_is_not_full_memory() -> None:
    for error in (
        RuntimeError("out of resource: shared memory"),
        ValueError("out of memory"),
        KeyError("memory"),
    ):
        assert not ran_out_of_memory(error)


def test_each_use_of_a_compiled_function_has_variants_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch counts variants by code object; past the limit it would run the function as it is, S ×
    S.
    """
    seen: list[str] = []

    def counting(graph: Any, _inputs: Any) -> Any:
        seen.append("compiled")
        return graph.forward

    def twice(tensor: torch.Tensor) -> torch.Tensor:
        return tensor * 2

    monkeypatch.setattr("torch._dynamo.config.recompile_limit", 2)
    for use in ("encoder", "decoder", "cross"):
        for gradients in (True, False):
            for dtype in (torch.float32, torch.float64):  # two variants each, twelve in all
                call = attention.compiled_for(twice, use, gradients, counting)
                assert call(torch.ones(3, dtype=dtype)).tolist() == [2.0] * 3
    assert len(seen) == 12
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        call(torch.ones(3, dtype=torch.float16))


def test_long_rows_are_compared_too_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, compared = adapted(tmp_path), list[tuple[int, int]]()
    capsys.readouterr()
    real = choose._difference

    def noted(*arguments: Any) -> Any:
        compared.append((arguments[2].input_ids_BS.shape[1], arguments[2].labels_BT.shape[1]))
        return real(*arguments)

    monkeypatch.setattr(choose, "_difference", noted)
    with fast_forward(model):
        for lengths in (
            [(30, 11), (9, 4)],
            [(30, 11)],
            [(9, 4), (700, 400), (600, 600)],
            [(20, 300)],
            [(900, 4)],
        ):
            for left in (False, True):
                sequence_loss(model, batch_of(lengths, left=left))
    # The first batch; then the short rows of the first long one, and what is enough of its longest.
    assert compared == [(30, 11), (9, 4), (512, 512)]
    assert capsys.readouterr().err == ""


def test_a_forward_that_fails_on_long_rows_alone_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, long = adapted(tmp_path), batch_of([(9, 4), (400, 5)])
    expected = float(sequence_loss(model, long)[0].detach())
    real = attention.relative_bias

    def cut(relative: Any, length: int, device: Any) -> Any:
        bias = real(relative, length, device).clone()
        bias[..., 200:] = 0
        return bias

    monkeypatch.setattr(attention, "relative_bias", cut)
    with fast_forward(model):
        sequence_loss(model, batch_of())
        assert fast_states(model, batch_of()) is not None
        assert float(sequence_loss(model, long)[0].detach()) == pytest.approx(expected, rel=1e-5)
        assert fast_states(model, batch_of()) is None
    assert capsys.readouterr().err.count("GroupedAttention is not used") == 1


def test_an_attention_that_fails_on_a_later_batch_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flaky(attention.GroupedAttention):
        def __init__(self, layout: Any, *, dropout: float) -> None:
            super().__init__(layout, dropout=dropout)
            if len(layout.row_order) == 2:
                raise TritonError("out of resource: shared memory")

    monkeypatch.setattr(
        choose, "kinds_of_attention", lambda *_: [Flaky, attention.GroupedAttention]
    )
    model, two = adapted(tmp_path), batch_of([(30, 11), (9, 4)])
    expected = float(sequence_loss(model, two)[0].detach())
    with fast_forward(model):
        sequence_loss(model, batch_of())
        for _ in range(2):
            assert float(sequence_loss(model, two)[0].detach()) == pytest.approx(expected, rel=1e-5)
    assert (
        capsys.readouterr().err.count("Flaky is no longer used: TritonError: out of resource") == 1
    )


def test_without_a_compiler_the_plain_pieces_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Cannot find a working triton installation")

    monkeypatch.setattr(
        "lora_s2s.fast_t5.choose.kinds_of_attention",
        lambda *_: [refuse, attention.GroupedAttention],
    )
    assert loss_inside(adapted(tmp_path))[1]
    assert capsys.readouterr().err.count("working triton") == 1
