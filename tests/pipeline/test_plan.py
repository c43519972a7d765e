"""``plan``: memory and time before anything is loaded, advice, and what ``train`` refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from cli_parts import Invoke, listing, write_csv
from tiny_families import TINY
from torch.autograd.graph import saved_tensors_hooks
from training_parts import in_step

import lora_s2s
from lora_s2s import machine
from lora_s2s.data.collate import collate
from lora_s2s.fast_t5.choose import fast_forward, with_layout
from lora_s2s.lora.inject import inject_lora
from lora_s2s.models.known_bases import KNOWN
from lora_s2s.models.loading import LoadedBase
from lora_s2s.pipeline.plan import seconds_per_step
from lora_s2s.pipeline.plan_base import base_of, planned_base
from lora_s2s.pipeline.planned import Device, Planned, Rows, peak_of
from lora_s2s.recipe.schema import LoraSection, Recipe
from lora_s2s.training import footprint
from lora_s2s.training.duration import Speed
from lora_s2s.training.footprint import Setting
from lora_s2s.training.loss import sequence_loss
from lora_s2s.training.processes import computing_on

FIELDS = (
    "weights_bytes adapter_bytes optimizer_bytes activations_bytes total_bytes seconds fits advice"
)


def planned(invoke: Invoke, *words: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(invoke("plan", *words, "--json").stdout)
    return result


def parts_of_total(shown: str) -> dict[str, int]:
    """Megabytes of each row of the first table."""
    first = shown.partition("At other times")[0]
    rows = re.findall(r"^ (\S.*?) {2,}([0-9,]+) MB *$", first, flags=re.MULTILINE)
    return {what: int(size.replace(",", "")) for what, size in rows}


def test_a_plan_of_a_recipe_loads_no_weights_and_leaves_nothing(
    invoke: Invoke, here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "train.csv")
    before = listing(here)
    monkeypatch.setattr("lora_s2s.models.loading.put_weights", None)
    given = ("--data", "train.csv", "--model", str(tiny_model))
    result = planned(invoke, *given)
    assert set(FIELDS.split()) <= set(result)
    assert result["fits"]
    assert result["advice"] == []
    assert min(result[f"{one}_per_second"] for one in ("flop", "values")) > 1e6
    assert result["seconds"] > 0
    assert listing(here) == before
    shown = invoke("plan", *given, "--gpu-memory", "8GB", "--json")
    assert "Plan of train on a GPU of 8.0 GB\n" in shown.stderr
    assert re.search(r"^it fits: [0-9]+ MB of 8.0 GB$", shown.stderr, flags=re.MULTILINE)
    elsewhere = json.loads(shown.stdout)
    assert (elsewhere["device"], elsewhere["seconds"], elsewhere["fits"]) == ("cuda", None, True)
    words = ["--gpu-memory", "1MB", "--set", f"training.batch_size={2**31}"]
    words += ["--set", "training.gradient_accumulation=1000"]
    assert planned(invoke, *given, *words)["fits"] is False
    assert "--gpu-memory is '8'" in invoke("plan", *given, "--gpu-memory", "8", code=2).stderr


@pytest.mark.parametrize("largest", ["check of the first batch", "activations"])
def test_the_parts_that_are_shown_add_up_to_the_total(
    invoke: Invoke, here: Path, largest: str
) -> None:
    write_csv(here / "train.csv")
    words = ["--data", "train.csv", "--model", "google/flan-t5-base", "--gpu-memory", "8GB"]
    if largest == "activations":
        words += ["--set", "model.quantization=nf4", "--set", "training.batch_size=1"]
    shown = invoke("plan", *words, "--json")
    result, parts = json.loads(shown.stdout), parts_of_total(shown.stderr)
    *rows, total = parts.values()
    assert sum(rows) == total == round(result["total_bytes"] / 1e6)
    assert largest in parts
    assert ("optimizer" in parts) is (largest == "activations")
    assert next(iter(parts)) in ("weights (16 bits each)", "weights (6 bits each)")
    apart = shown.stderr.partition("At other times")[2]
    assert re.findall("decoding in eval|check of the first batch|activations", apart) == [
        "activations" if largest != "activations" else "check of the first batch",
        "decoding in eval",
    ]


def test_full_fine_tuning_is_planned_with_every_weight_and_optimizer(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    given = ("--data", "train.csv", "--model", str(tiny_model))
    for device in ((), ("--gpu-memory", "8GB")):  # in float32 on both
        full = planned(invoke, *given, "--set", "lora.method=full", *device)
        assert full["optimizer_bytes"] == 2 * full["weights_bytes"]  # AdamW's two moments
    words = ("--set", "lora.method=full", "--set", "training.optimizer=adafactor")
    assert planned(invoke, *given, *words)["optimizer_bytes"] < full["optimizer_bytes"] / 20


def test_processes_that_divide_the_weights_need_less_memory_each(
    invoke: Invoke, here: Path
) -> None:
    write_csv(here / "train.csv")
    words = ("--data", "train.csv", "--model", "google/flan-t5-xl", "--gpu-memory", "6GB")
    alone = planned(invoke, *words)
    four, divided = (
        planned(invoke, *words, "--processes", "4", "--set", f"training.sharding={sharding}")
        for sharding in ("none", "full")
    )
    assert four["weights_bytes"] == alone["weights_bytes"]
    assert [four["fits"], divided["fits"]] == [False, True]
    settings = [one["setting"] for one in four["advice"]]
    assert settings[-1] == "training.sharding=full"
    assert four["advice"][-1]["total_bytes"] <= 6e9
    # A quarter of the blocks, two whole ones of 48, embeddings and head.
    embeddings = 2 * 2 * 32_128 * 2048
    blocks = alone["weights_bytes"] - embeddings
    shares = (divided["weights_bytes"] - embeddings) / blocks
    assert 1 / 4 + 2 / 48 < shares < 1 / 4 + 2 / 30
    # Several processes on one CPU share its memory.
    assert Device.found(2).memory == pytest.approx((Device.found().memory or 0) / 2, rel=0.1)
    full = ("--set", "lora.method=full", "--set", "training.sharding=full")
    whole, part = (planned(invoke, *words, "--processes", n, *full) for n in ("1", "4"))
    assert part["optimizer_bytes"] == pytest.approx(whole["optimizer_bytes"] / 4)
    # A divided run takes no other optimizer, and weights that train stay in float32.
    changed = " ".join(one["setting"] for one in part["advice"])
    assert not re.search("optimizer|dtype|quantization", changed)


def test_a_base_that_is_not_here_is_planned_by_its_known_sizes(invoke: Invoke, here: Path) -> None:
    write_csv(here / "train.csv")
    languages = ["--set", "data.source_language=eng_Latn", "--model", "facebook/m2m100_418M"]
    assert planned(invoke, "--data", "train.csv", *languages)["steps"]
    words = ["--data", "train.csv", "--model", "google/flan-t5-xl", "--gpu-memory"]
    words += ["6GB", "--set", "training.tokens_per_batch=4096"]
    result = planned(invoke, *words)
    assert result["fits"] is False
    settings = [one["setting"] for one in result["advice"]]
    # What leaves the result as it is comes first; it ends where the run fits.
    assert settings[0].startswith("training.tokens_per_batch=")
    assert settings[-1] in ("model.quantization=int8", "model.quantization=nf4")
    totals = [one["total_bytes"] for one in result["advice"]]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] <= 6e9 < totals[-2]
    assert "not on this machine" in result["notes"][0]


def test_a_base_too_large_in_4_bits_ends_in_a_smaller_one(
    invoke: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "train.csv")
    words = ["--data", "train.csv", "--model", "google/flan-t5-xxl", "--gpu-memory", "4GB"]
    last = planned(invoke, *words)["advice"][-1]
    assert last["setting"] in ("model.name=google/flan-t5-xl", "model.name=google/flan-t5-large")
    table = json.loads(invoke("plan", *words[:4], "--table", "--json").stdout)["table"]
    assert [row["base"] for row in table] == [name for name in KNOWN if "flan" in name]
    monkeypatch.setenv("COLUMNS", "80")
    shown = invoke("plan", *words[:4], "--table").stderr
    assert max(map(len, shown.splitlines())) <= 80
    assert [len(re.findall(f"flan-t5-{size} ", shown)) for size in ("small", "xxl")] == [2, 2]
    assert "nf4, checkpointing" in shown
    assert "ckpt" in shown
    assert table[0]["4 GB"] == "LoRA"
    assert table[-1]["4 GB"] == "–"
    full = (*words[:4], "--set", "lora.method=full", "--table", "--json")
    assert json.loads(invoke("plan", *full).stdout)["table"][0]["nf4"] == "–"


def test_train_refuses_what_cannot_fit_unless_told(
    invoke: Invoke, here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "train.csv")
    words = ("--data", "train.csv", "--model", str(tiny_model), "--set", "training.max_steps=1")
    monkeypatch.setattr(machine, "container_memory", lambda: 50_000_000)
    refused = invoke("train", *words, code=4)
    assert "needs about" in refused.stderr
    assert "--no-memory-check" in refused.stderr
    assert not (here / "adapters").exists()
    monkeypatch.setattr(machine, "container_memory", lambda: 6_000_000_000)
    xl = ("--data", "train.csv", "--model", "google/flan-t5-xl")
    for lacks in (True, False):
        for module in ("models.precision", "pipeline.plan"):
            monkeypatch.setattr(f"lora_s2s.{module}.is_emulated", lambda *_, lacks=lacks: lacks)
        dtype = ("--set", "model.dtype=bfloat16")
        trained = invoke("train", *words, *dtype, "--overwrite").stderr
        warned = "this CPU has no instructions for bfloat16, so float32 is faster: --set model."
        assert (f"warning: {warned}dtype=float32\n" in trained) is lacks
        costs = {one["setting"]: one["cost"] for one in planned(invoke, *xl)["advice"]}
        slower = ", slower on this CPU" if lacks else ""
        rounded = f"weights and activations rounded to 16 bits{slower}"
        assert costs["model.dtype=bfloat16"] == rounded
    monkeypatch.setattr(machine, "container_memory", lambda: 50_000_000)
    invoke("train", *words, "--no-memory-check", "--overwrite")


@pytest.mark.parametrize(
    ("size", "millions", "qv", "every", "nf4_gib"),
    [
        ("small", 76.96, 0.69, 2.56, None),
        ("large", 783.2, 4.72, 18.28, 0.47),
        ("xl", 2849.8, 9.44, 35.39, 1.55),
    ],
)
def test_parameters_and_bytes_of_flan_t5(
    size: str, millions: float, qv: float, every: float, nf4_gib: float | None
) -> None:
    name = f"google/flan-t5-{size}"
    base = base_of(name, KNOWN[name])
    assert base.parameters / 1e6 == pytest.approx(millions, rel=1e-4)
    for targets, expected in (("attention-qv", qv), ("all-linear", every)):
        assert base.adapted(LoraSection(target_modules=targets))[0] / 1e6 == pytest.approx(
            expected, rel=0.01
        )
    if nf4_gib:
        assert base.weights_bytes("nf4", 2) / 2**30 == pytest.approx(nf4_gib, rel=0.02)


def model_of(row: str, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    tiny = TINY[row]
    kind = getattr(transformers, tiny.model)
    config = kind.config_class(**tiny.settings)
    settings = {**config.to_dict(), "model_type": tiny.family}
    return kind(config).to(dtype), settings


@pytest.mark.parametrize("targets", ["attention-qv", "all-linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("row", ["T5 v1.1, LM-adapted, Flan-T5", "BART"])
def test_what_layers_keep_is_what_torch_saves(row: str, dtype: torch.dtype, targets: str) -> None:
    model, settings = model_of(row, dtype)
    base = base_of(row, settings)
    section = LoraSection(target_modules=targets, r=4)
    _, adapted, _ = base.adapted(section)
    loaded = LoadedBase(model, base.base.family, row, None, Path(), dtype, "")
    with_adapter = inject_lora(loaded, section, seed=0).train()
    base.base.family.set_dropout(with_adapter, 0.0)
    lengths = np.array([24, 24, 24]), np.array([12, 12, 12])
    rows = [SimpleNamespace(input_ids=[5] * 24, labels=[6] * 12)] * 3
    own = {tensor.untyped_storage().data_ptr() for tensor in (*with_adapter.parameters(),)}
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    batch = collate(rows, 0)
    with fast_forward(with_adapter):
        sequence_loss(with_adapter, batch)
        batch = with_layout(with_adapter, batch)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _ = sequence_loss(with_adapter, batch)
    each = dtype.itemsize
    setting = Setting(each, "cpu", checkpointing=False, dropout=False)
    peak = footprint.step_peak(footprint.Batch.of(*lengths, "cpu"), base.sizes, adapted, setting)
    expected = peak.kept
    loss.backward()
    if base.sizes.kind == "bart":  # its head is not computed in chunks
        logits = 12 * 3 * base.sizes.vocabulary
        expected += logits * 4
        assert peak.logits == (0 if each == 4 else logits * 14)  # in float32 the peak is later
    assert expected == pytest.approx(sum(size for size, _ in saved.values()), rel=0.1)


# The kept runs are older than the last one, which is no amount.
_NOT_COMPARED = {"libraries_bytes", "total_bytes", "decoding_bytes", "peaks_before_steps"}
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
# Values a second of a machine where they were not measured: fitted to its runs.
_FITTED = {"float32": 3.85e9, "bfloat16": 5.35e9}


@pytest.mark.parametrize("name", ["plan-cpu.json", "plan-cpu-avx512.json"])
def test_what_is_planned_is_what_was_measured(name: str) -> None:
    kept = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    assert len(kept["runs"]) >= 14
    for run in kept["runs"]:
        base = base_of(run["setting"]["shape"], run["config"], own_head=True)
        sources, targets = np.array(run["rows"], np.int64).T
        recipe = Recipe.model_validate(run["recipe"])
        rows = Rows(sources, targets, held_out=0)
        planned = Planned(recipe, base, rows, Device("cpu", None), kept["libraries_bytes"])
        memory, of_run = peak_of(planned), run["planned"]
        values = of_run.get("values_per_second", _FITTED[run["setting"]["dtype"]])
        was_probed = "values_per_second" in of_run
        assert memory.total_bytes == pytest.approx(run["peak_bytes"], rel=0.1), run["setting"]
        # The libraries hide most parts: another arithmetic has to be measured again.
        parts = {key: part for key, part in vars(memory).items() if key not in _NOT_COMPARED}
        assert parts == {key: of_run[key] for key in parts}, run["setting"]
        seconds = seconds_per_step(planned, Speed(of_run["flop_per_second"], values))
        bound = 0.3 if was_probed else 0.15
        assert seconds == pytest.approx(run["seconds_per_step"], rel=bound), run["setting"]
        if was_probed:
            assert seconds == pytest.approx(of_run["seconds_per_step"]), run["setting"]


def test_libraries_are_counted_before_weights_pass_through_memory(
    invoke: Invoke, here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "train.csv")
    opened: list[object] = []

    def base_opened(section: Any) -> Any:
        opened.append(section)
        return planned_base(section)

    monkeypatch.setattr("lora_s2s.pipeline.planned.planned_base", base_opened)
    resident = lambda: 10**9 * (1 + len(opened))  # noqa: E731
    monkeypatch.setattr("lora_s2s.pipeline.planned.resident_memory", resident)
    result = planned(invoke, "--data", "train.csv", "--model", str(tiny_model))
    assert opened
    assert 1e9 < result["libraries_bytes"] < 1.1e9


def test_a_busy_machine_is_said_by_init_plan_and_train(
    invoke: Invoke, here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "train.csv")
    words = ("--data", "train.csv", "--model", str(tiny_model))
    others = "lora_s2s.machine._processors_of_others"
    monkeypatch.setattr(others, lambda: 9.0)
    line = r"other programs use \d+\.\d of \d+ processors: training takes at least \d+\.\d times "
    line += r"as long as the times of init and plan, which are for an idle machine"
    line += r"(; OMP_NUM_THREADS=1 is faster now)?"
    assert any(re.fullmatch(line, note) for note in planned(invoke, *words)["notes"])
    for command in (("train", *words, "--set", "training.max_steps=1"), ("init", *words, "--yes")):
        assert re.search(f"{line}\n", invoke(*command).stderr)
    monkeypatch.setattr(others, lambda: 0.0)
    assert not any("other programs" in note for note in planned(invoke, *words)["notes"])


@pytest.mark.parametrize(
    ("used", "by_user", "threads"),
    [(2.6, False, "1"), (1.2, False, "3"), (0.4, False, None), (2.6, True, None)],
)
def test_fewer_threads_are_taken_beside_other_programs(
    used: float, by_user: bool, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "USER_SET_THREADS", by_user)
    monkeypatch.setattr(machine, "usable_processors", lambda: 4)
    monkeypatch.setattr(machine, "_processors_of_others", lambda: used)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 4)
    line = machine.share_with_others()
    taken = os.environ.pop("OMP_NUM_THREADS", None)
    assert taken == threads
    expected = f"other programs use {used} of 4 processors: computing on {threads} of 4 threads, "
    expected += "which is faster now (OMP_NUM_THREADS=4 takes all)"
    assert line == (expected if threads else "")
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 1)
    assert machine.share_with_others() == ""  # torch takes a thread a core
    planned_on, named = machine.other_work(4)
    assert planned_on == 4
    assert bool(re.search("; OMP_NUM_THREADS=. is faster now$", named)) is (used > 1)
    trained_on, said = machine.other_work(4, training=True)
    assert trained_on == int(threads or 4)
    assert (f"computing on {threads} of 4 threads, which" in said) is (threads is not None)


def test_a_call_from_python_trains_on_fewer_threads_beside_other_programs(
    here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "train.csv")
    monkeypatch.setattr(machine, "USER_SET_THREADS", False)
    monkeypatch.setattr(machine, "usable_processors", lambda: 2)
    monkeypatch.setattr(machine, "_processors_of_others", lambda: 1.9)
    used: list[int] = []
    given = {"model.name": str(tiny_model), "data.train": "train.csv", "training.max_steps": 1}
    recipe = lora_s2s.load_recipe("flan-t5-small", {**given, "output.name": "x"})
    with computing_on(2), in_step(1, lambda: used.append(torch.get_num_threads())):
        lora_s2s.train(recipe, progress=False)
        assert torch.get_num_threads() == 2
    assert used == [1]


def test_what_other_programs_use_is_measured_before_torch_takes_its_threads() -> None:
    loading = (
        "from lora_s2s import console, machine\n"
        "machine._MOMENT, machine._LONGER = 1.0, 0\n"
        "print(machine.other_work(1)[1])\n"
        "machine._processors_of_others, machine.usable_processors = lambda: 1.9, lambda: 2\n"
        "console.announce_loading(machine.share_with_others)\n"
        "import torch; print(torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            measured, threads = subprocess.check_output(
                [sys.executable, "-c", loading], env=environment, text=True
            ).splitlines()
        finally:
            other.kill()
    assert measured.startswith("other programs use ")
    assert threads == "1"


def test_checkpointing_and_4_bits_take_less_and_packing_as_much_as_its_tokens() -> None:
    base = base_of("google/flan-t5-base", KNOWN["google/flan-t5-base"])
    _, adapted, work = base.adapted(LoraSection())
    batch = footprint.Batch.of(np.full(8, 256), np.full(8, 64), "cuda")
    plain = Setting(2, "cuda", checkpointing=False, dropout=False)
    again = Setting(2, "cuda", checkpointing=True, dropout=False)
    whole = footprint.step_peak(batch, base.sizes, adapted, plain).total
    few = footprint.step_peak(batch, base.sizes, adapted, again)
    assert few.total < whole / 3
    blocks = 12 * 768 * 8 * (256 + 64)  # the input of each, beside biases and the encoder's states
    assert few.kept == 2 * (blocks + 12 * batch.biases + 2 * 768 * 8 * 256)
    bits = [base.weights_bytes(kind, 2) for kind in ("none", "int8", "nf4")]
    assert bits == sorted(bits, reverse=True)
    assert work.encoder_trains
    longer = [
        footprint.decoding_bytes(base.sizes, batch_tokens=99, rows=4, answer=n, bytes_each=2)
        for n in (0, 1)
    ]
    assert longer[1] - longer[0] == 2 * 12 * 768 * 4 * 2  # keys and values, layers, width, rows
    first = footprint.decoding_bytes(base.sizes, batch_tokens=0, rows=4, answer=0, bytes_each=2)
    assert first == 8 * 4 * base.sizes.vocabulary  # the logits of a step
    dropped = Setting(2, "cuda", checkpointing=False, dropout=True)
    more = footprint.step_peak(batch, base.sizes, adapted, dropped).total - whole
    # A mask of each head's scores in the encoder, in the decoder and of its cross-attention.
    assert more == 2 * 12 * 2 * 8 * (256 * 256 + 64 * 64 + 64 * 256)
    apart = footprint.Batch.of(np.repeat([256, 8], 8), np.repeat([64, 16], 8), "cpu")
    assert apart.encoder_scores == 8 * (256**2 + 8**2)
    assert apart.other_scores == 8 * (64 * (64 + 256) + 16 * (16 + 8))
    decoder = base.adapted(LoraSection(target_modules="decoder"))[1]
    assert footprint.step_peak(batch, base.sizes, decoder, plain).total < whole / 2
