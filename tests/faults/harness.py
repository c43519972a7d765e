"""Runs that are killed or whose files fail, continued, and compared with the undisturbed run byte
for byte.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preloaded import Outcome, Preloaded

ROWS = 30
# Every kind of state at once: dropout, accumulation, validation, the best so far, early stopping,
# LoRA+.
RECIPE = """\
model: {name: demo}
data: {train: rows.jsonl, validation_fraction: 0.2}
lora: {r: 4, alpha: 8, dropout: 0.1, target_modules: attention-qv}
training:
  max_steps: 12
  batch_size: 4
  gradient_accumulation: 2
  learning_rate: 3e-3
  lora_plus_ratio: 4
  dropout: 0.1
  save_every: 3
  evaluate_every: 2
  early_stopping: 5
  keep_checkpoints: 2
output: {dir: adapters, name: it}
"""
TRAIN = ("train", "recipe.yaml")
# The shipped recipe, shortened, with data that is made and prepared on the way.
DEMO = (
    "train",
    "demo",
    "--set",
    "output.name=it",
    "--set",
    "training.max_steps=12",
    "--set",
    "training.save_every=3",
    "--set",
    "training.evaluate_every=6",
    "--set",
    "training.tokens_per_batch=512",
)
# Half as long, for what is done at every file operation.
SHORT = (
    *TRAIN,
    "--set",
    "training.max_steps=6",
    "--set",
    "training.save_every=2",
    "--set",
    "training.evaluate_every=3",
)

# Other verbs, in a folder with the finished adapter.
VERBS = {
    "prepare": ("prepare", "recipe.yaml", "--out", "other"),
    "eval": ("eval", "adapters/it", "--data", "rows.jsonl"),
    "merge": ("merge", "adapters/it", "--out", "merged"),
    "predict": ("predict", "adapters/it", "--input", "rows.jsonl", "--output", "answers.jsonl"),
}


def make_start(folder: Path) -> Path:
    """Makes the folder that every run begins with: recipe and rows."""
    folder.mkdir(parents=True)
    rows = (
        {"source": f"repeat the number {n * 37 % 100} and {n}", "target": f"{n * 37 % 100}, {n}"}
        for n in range(ROWS)
    )
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Undisturbed:
    """A command line's run that nothing disturbed: the paths before and after it, its file
    operations.
    """

    start: Path
    words: tuple[str, ...]
    before: list[str]
    after: list[str]
    seconds: float
    operations: list[str]


def undisturbed(
    folder: Path, start: Path, words: tuple[str, ...], preloaded: Preloaded
) -> Undisturbed:
    """Runs a command line in copies of ``start``: ``whole``, and ``logged`` with its file
    operations listed.
    """
    whole, log = shutil.copytree(start, folder / "whole"), folder / "operations"
    outcome = preloaded.run(whole, *words)
    assert outcome.code == 0, outcome.stderr
    logged = preloaded.run(shutil.copytree(start, folder / "logged"), *words, log=str(log))
    assert logged.code == 0, logged.stderr
    operations = log.read_text(encoding="utf-8").splitlines()
    return Undisturbed(start, words, names(start), names(whole), outcome.seconds, operations)


@dataclass(frozen=True)
class Reference(Undisturbed):
    """The training run, which is continued where others begin again."""

    whole: Path
    weights: bytes
    metrics: list[dict[str, Any]]


def make_reference(folder: Path, preloaded: Preloaded, words: tuple[str, ...] = TRAIN) -> Reference:
    """Trains undisturbed, from recipe and rows."""
    run, whole = (
        undisturbed(folder, make_start(folder / "start"), words, preloaded),
        folder / "whole",
    )
    assert weights(folder / "logged") == weights(whole)
    return Reference(**vars(run), whole=whole, weights=weights(whole), metrics=metrics(whole))


def weights(folder: Path) -> bytes:
    """The finished adapter's weights."""
    return (folder / "adapters" / "it" / "adapter_model.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The finished run's log without its clocks."""
    clocks = ("seconds", "tokens_per_second", "memory_bytes")
    lines = (folder / "adapters" / "it" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in clocks}
        for line in lines
    ]


def names(folder: Path) -> list[str]:
    """Every path, leftovers included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def check_same(folder: Path, reference: Reference) -> None:
    """A run that has come to its end is the undisturbed one: weights, log, and no file more or
    less.

    Which checkpoints stand may differ: one is saved wherever a signal stops a run.
    """
    assert weights(folder) == reference.weights, "the weights differ"
    assert metrics(folder) == reference.metrics
    found, expected = (
        [name for name in some if "step-" not in name] for some in (names(folder), reference.after)
    )
    assert found == expected, sorted({*found} ^ {*expected})
    assert not list(folder.rglob(".step-*"))
    assert check_whole(folder) == len(
        [name for name in reference.after if name.endswith("state.json")]
    )


def check_whole(folder: Path) -> int:
    """Whatever has its final name is whole; returns how many checkpoints stand."""
    from lora_s2s.records import AdapterManifest, verify
    from lora_s2s.training.checkpoint import read_checkpoint

    adapters = folder / "adapters"
    found = sorted(adapters.glob("*/checkpoints/step-*"))
    for path in found:
        read_checkpoint(path)
    if (adapters / "it").exists():
        verify(adapters / "it", AdapterManifest.read(adapters / "it").files)
    return len(found)


def kill_and_continue(
    folder: Path, moments: list[float], reference: Reference, preloaded: Preloaded
) -> list[int]:
    """Starts a run, kills each attempt at its moment, lets the last one end, and compares; returns
    the exit codes.
    """
    shutil.copytree(reference.start, folder)
    codes = []
    for number, moment in enumerate([*moments, None]):
        words = (*reference.words, "--resume") if number else reference.words
        outcome = preloaded.run(folder, *words, kill_after=moment)
        assert outcome.code in (-9, 0), (
            f"killed after {moments}, attempt {number}: {outcome.stderr}"
        )
        check_whole(folder)
        codes.append(outcome.code)
    check_same(folder, reference)
    shutil.rmtree(folder)
    return codes


def check_failure(outcome: Outcome, kind: str, case: str) -> None:
    """A failed file operation is told in one message that names the file and the reason.

    Code 0: what failed was not needed, such as making a folder that is there.
    """
    assert outcome.code in (0, 4 if kind in ("enospc", "full") else 1), case
    if outcome.code:
        assert "error: " in outcome.stderr, case
        assert "  at: " in outcome.stderr, case
        assert ("disk" if outcome.code == 4 else "Input/output error") in outcome.stderr, case
    assert "Traceback" not in outcome.stderr, case
    assert "unforeseen" not in outcome.stderr, case
    assert ".staged." not in outcome.stderr, case
    assert ".old." not in outcome.stderr, case


def check_continued(
    folder: Path, run: Undisturbed, code: int, case: str, preloaded: Preloaded
) -> None:
    """Looks at what a disturbed command line left, has it go on, or begin again, and compares its
    end.

    Of other verbs than ``train`` nothing is left, but for ``eval``'s predictions, which are whole.
    """
    check_whole(folder)
    if isinstance(run, Reference):
        resumed = preloaded.run(folder, *run.words, "--resume")
        assert resumed.code == 0, f"{case}\nresumed: {resumed.stderr}"
        check_same(folder, run)
        return
    if code:
        left = {*names(folder)} ^ {*run.before}
        # They are whole before the manifest, the card and the report tell of them.
        assert not left or (run.words[0] == "eval" and left <= {*run.after}), (
            f"{case}: {sorted(left)}"
        )
        again = preloaded.run(folder, *run.words)
        assert again.code == 0, f"{case}\nagain: {again.stderr}"
    assert names(folder) == run.after, case


def stop_and_continue(
    folder: Path, moment: float, number: int, run: Undisturbed, preloaded: Preloaded
) -> Outcome:
    """Sends a signal at a moment, looks at what stands, continues and compares; returns how it
    ended.

    Code 0: it was done already; a negative one: it had not begun.
    """
    shutil.copytree(run.start, folder)
    outcome = preloaded.run(folder, *run.words, kill_after=moment, signal=number)
    case = f"{run.words[0]}: signal {number} after {moment:.2f} s: {outcome}"
    assert outcome.code in (128 + number, -number, 0), case
    check_continued(folder, run, outcome.code, case, preloaded)
    shutil.rmtree(folder)
    return outcome


def fail_and_continue(
    folder: Path, number: int, kind: str, run: Undisturbed, preloaded: Preloaded
) -> int:
    """Has one file operation fail, looks at what stands, continues and compares; returns the exit
    code.
    """
    shutil.copytree(run.start, folder)
    outcome = preloaded.run(folder, *run.words, fault=[number, kind])
    case = f"{kind} at operation {run.operations[number - 1]}: {outcome.code}: {outcome.stderr}"
    check_failure(outcome, kind, case)
    check_continued(folder, run, outcome.code, case, preloaded)
    shutil.rmtree(folder)
    return outcome.code
