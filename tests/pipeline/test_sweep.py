"""A sweep: trials on one seed, halved by their validation score, continued after a kill, the best
as a recipe.
"""

from __future__ import annotations

import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import programs
import pytest
from cli_parts import Invoke, write_csv
from preloaded import Preloaded

import lora_s2s
from lora_s2s.errors import RunError
from lora_s2s.pipeline import trials as training
from lora_s2s.pipeline.study import COMPLETE, FAILED, JOURNAL, SHARES, STOPPED, Trials, mend_journal
from lora_s2s.recipe.load import load_recipe, recipe_from_settings
from lora_s2s.recipe.space import Varied, read_space

RECIPE = recipe_from_settings("it", ["model.name=demo", "data.train=x"])
WORDS = ["training.learning_rate=1e-4:1e-2:log", "lora.r=2,4"]


class Killed(Exception):
    """The process ends here."""


def swept(folder: Path, space: tuple[Varied, ...], most: int, kill: int | None = None) -> Trials:
    """Runs trials whose score is how far their rate is from 1e-3; ends after ``kill`` steps."""
    mend_journal(folder)
    trials = Trials(folder, space, lower=True, seed=42)
    trials.begin()
    left = [kill if kill is not None else 10**9]

    def step() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    numbers = trials.unfinished()
    while numbers or trials.count() < most:
        step()
        one = trials.again(numbers.pop()) if numbers else trials.next()
        rate = float(one.settings.get("training.learning_rate", 8e-3))
        for place, share in enumerate(SHARES):
            step()
            if place >= len(one.scores):
                trials.report(one.number, abs(math.log(rate / 1e-3)) / share**0.1, 1.0)
            step()
            if share < 1 and not trials.goes_on(one.number):
                trials.end(one.number, STOPPED)
                break
        else:
            trials.end(one.number, COMPLETE)
    return trials


def test_a_study_killed_at_any_step_goes_on_as_it_would_have(tmp_path: Path) -> None:
    space = read_space(RECIPE, WORDS)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = swept(whole, space, 12)
    rng = random.Random(1)
    for _ in range(4):
        with pytest.raises(Killed):
            swept(parts, space, 12, kill=rng.randrange(1, 9))
        with (parts / JOURNAL).open("ab") as journal:
            journal.write(b'{"op_code": 5, "half a li')  # as a full disk leaves it
        (parts / f"{JOURNAL}.lock").symlink_to(parts / JOURNAL)
    resumed = swept(parts, space, 12)
    assert resumed.records() == expected.records()
    states = [one.state for one in expected.records()]
    assert len(states) == 12
    assert states.count(STOPPED) >= 4
    best, own = expected.best(), expected.records()[0]
    assert best is not None
    assert best.scores[-1] < own.scores[-1]
    assert len(best.scores) == len(SHARES)
    assert expected.importance()["training.learning_rate"] > 0.5


def test_lists_of_values_are_tried_once_each_and_end(tmp_path: Path) -> None:
    space = read_space(RECIPE, ["lora.r=2,4", "training.learning_rate=1e-3,2e-3"])
    trials = Trials(tmp_path, space, lower=True, seed=1)
    trials.begin()
    assert trials.most() == 5
    tried = [tuple(trials.next().settings.values()) for _ in range(5)]
    assert (tried[0], len(set(tried))) == ((), 5)
    for score in (3.0, 2.0, 1.0):
        trials.report(1, score, 1.0)
    trials.end(1, COMPLETE)
    trials.report(2, 0.5, 1.0)  # it is not done, and may end worse
    best = trials.best()
    assert best is not None
    assert best.number == 1


def quick(tiny_model: Path, *more: str, validation: str = "0.3") -> list[str]:
    given = {
        "model.name": tiny_model,
        "data.train": "train.csv",
        "data.validation_fraction": validation,
        "training.max_steps": 9,
        "training.batch_size": 4,
        "output.name": "it",
    }
    return [part for key, value in given.items() for part in ("--set", f"{key}={value}")]


def options(*words: str) -> list[str]:
    return [part for word in words for part in ("--vary", word)]


def test_a_sweep_keeps_the_best_as_a_recipe_that_trains(
    invoke: Invoke, here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "train.csv")
    command = [
        "sweep",
        "flan-t5-small",
        *quick(tiny_model),
        *options("training.learning_rate=1e-5,9e-2,9"),
    ]
    real, seeds = training.train_adapter, []

    def trained(recipe: Any, **how: Any) -> Any:
        seeds.append(recipe.training.seed)
        if recipe.training.learning_rate == 9:
            raise RunError("step 1: the loss is nan")
        return real(recipe, **how)

    monkeypatch.setattr(training, "train_adapter", trained)
    recipe = load_recipe("flan-t5-small", quick(tiny_model)[1::2])
    rates = {"training.learning_rate": ["1e-5", "9e-2", 9]}
    result = lora_s2s.sweep(recipe, rates, trials=2, progress=False)
    assert "Best recipe: sweeps/it/best.yaml" in result._repr_html_()
    first = result.to_dict()
    assert len(first["trials"]) == 2
    done = invoke(*command, "--budget", "9m", "--json")  # continues, until all values are tried
    report = json.loads(done.stdout)
    assert report["trials"][:2] == json.loads(json.dumps(first["trials"]))
    assert set(seeds) == {42}
    by_rate = {one["settings"]["training.learning_rate"]: one for one in report["trials"]}
    assert set(by_rate) == {"auto", 1e-5, 9e-2, 9}
    assert (by_rate[9]["state"], by_rate[9]["problem"]) == (FAILED, "step 1: the loss is nan")
    best = report["best"]
    assert best["settings"] == {"training.learning_rate": 9e-2}
    low, high = best["difference"]["interval"]
    assert low <= best["difference"]["value"] <= high < 0
    assert best["score"]["value"] == pytest.approx(best["value"], rel=1e-4)
    text = Path(report["recipe"]).read_text(encoding="utf-8")
    assert "# the best of 4 trials over 1e-5, 9e-2, 9\n  learning_rate: 0.09" in text
    assert load_recipe(report["recipe"]).output.name == "it-best"
    page = Path(report["report"]).read_text(encoding="utf-8")
    assert f"Trial {by_rate[9]['trial']} failed: step 1: the loss is nan" in page
    assert "against the recipe itself" in page
    assert not list((here / "sweeps/it/trials").glob("*.running"))
    assert "next: lora-s2s train sweeps/it/best.yaml" in done.stderr
    other = ["sweep", "flan-t5-small", *quick(tiny_model), *options("lora.r=2,4"), "--trials", "2"]
    refused = invoke(*other, code=2).stderr
    assert "sweeps/it holds another sweep; these differ: vary" in refused


def test_what_is_wrong_is_said_before_anything_is_trained(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    vary = options("training.lr=1e-4:1e-3", "lora.r=0,8")
    stderr = invoke("sweep", "demo", *vary, "--trials", "3", code=2).stderr
    assert "2 problems" in stderr
    rates = options("training.learning_rate=1e-4:1e-3:log")
    assert "--budget 30m" in invoke("sweep", "demo", *rates, code=2).stderr
    alone = quick(tiny_model, validation="0")
    stderr = invoke("sweep", "flan-t5-small", *alone, *rates, "--trials", "3", code=2).stderr
    assert "decides by validation data, and there is none" in stderr
    assert not list((here / "sweeps").glob("*"))


def test_a_budget_that_is_spent_continues_with_a_larger_one(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    command = ["sweep", "flan-t5-small", *quick(tiny_model), *options("lora.r=2,4")]
    stopped = invoke(*command, "--budget", "1s", "--set", "training.max_steps=5000", code=1).stderr
    assert "time was up before a trial was scored" in stopped
    assert "the same command with a larger --budget continues" in stopped
    journal = here / "sweeps/it" / JOURNAL
    journal.write_bytes(journal.read_bytes().replace(b'"op_code":4', b'"op_code":99', 1))
    longer = ("--budget", "1h", "--set", "training.max_steps=5000")
    assert "the journal of trials is damaged" in invoke(*command, *longer, code=3).stderr


def test_the_storage_unpickles_nothing_and_its_lock_leads_to_the_journal(here: Path) -> None:
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._base import BaseJournalSnapshot

    assert not issubclass(JournalFileBackend, BaseJournalSnapshot)  # a snapshot is a pickle
    folder = Path("sweep")
    folder.mkdir()
    trials = Trials(folder, read_space(RECIPE, WORDS), lower=True, seed=1)
    lock = trials._study._storage._backend._lock  # type: ignore[attr-defined]
    lock.acquire()
    assert (folder / f"{JOURNAL}.lock").exists()  # a link to nothing would be waited for forever
    lock.release()


def test_no_optuna_names_the_command_that_installs_it(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    stderr = invoke("sweep", "demo", *options("lora.r=2,4"), "--trials", "2", code=5).stderr
    assert "pip install 'lora-s2s[sweep]'" in stderr


@pytest.mark.parametrize(
    ("trials", "kills"),
    [pytest.param(5, 1, marks=pytest.mark.slow), pytest.param(12, 3, marks=pytest.mark.long)],
)
def test_trials_killed_and_resumed_end_with_the_same_best(
    tmp_path: Path, tiny_model: Path, preloaded: Preloaded, trials: int, kills: int
) -> None:
    """With SIGKILL at any time; and by two workers, all trials are there."""
    words = [*quick(tiny_model), *options(*WORDS), "--trials", str(trials), "--json"]
    command = ["sweep", "flan-t5-small", *words]

    def run(folder: Path, *more: str) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        write_csv(folder / "train.csv")
        done = preloaded.run(folder, *command, *more)
        assert done.code == 0, done.stderr[-2000:]
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    began = time.monotonic()
    whole = run(tmp_path / "whole")
    seconds = time.monotonic() - began
    parts, rng = tmp_path / "parts", random.Random(3)
    parts.mkdir()
    write_csv(parts / "train.csv")
    for _ in range(kills):
        preloaded.run(parts, *command, kill_after=rng.uniform(0.2, 0.5) * seconds)
    resumed = run(parts)

    def without_times(result: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**one, "seconds": 0} for one in result["trials"]]

    assert len(whole["trials"]) == trials
    assert without_times(resumed) == without_times(whole)
    assert resumed["best"]["trial"] == whole["best"]["trial"]
    together = run(tmp_path / "together", "--workers", "2")
    assert sorted(one["trial"] for one in together["trials"]) == list(range(trials))


def workers_of(process: int) -> list[int]:
    """The worker processes that a sweep has started and that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            worker = b"spawn_main" in (path / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if parent == process and worker:
            found.append(int(path.name))
    return found


@pytest.mark.long
def test_a_worker_or_their_parent_that_is_killed_costs_no_trial(
    tmp_path: Path, tiny_model: Path
) -> None:
    write_csv(tmp_path / "train.csv")
    words = [*quick(tiny_model), *options(*WORDS), "--trials", "5", "--workers", "2", "--json"]
    command = [sys.executable, "-m", "lora_s2s", "sweep", "flan-t5-small", *words]
    environment = programs.environment(OMP_NUM_THREADS="1")
    journal = tmp_path / "sweeps/it" / JOURNAL

    def begun(trials: int) -> tuple[subprocess.Popen[str], list[int]]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)
        end = time.monotonic() + 300
        while time.monotonic() < end and sweep.poll() is None:
            held = journal.read_text(encoding="utf-8") if journal.exists() else ""
            if held.count('"intermediate_value"') >= trials and len(workers_of(sweep.pid)) == 2:
                return sweep, workers_of(sweep.pid)
            time.sleep(0.05)
        raise AssertionError(sweep.communicate())

    sweep, workers = begun(1)
    sweep.kill()
    sweep.communicate()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{one}").exists() for one in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{one}").exists() for one in workers)
    sweep, (one, _) = begun(2)
    os.kill(one, signal.SIGKILL)
    _, stderr = sweep.communicate()
    assert sweep.returncode == 1
    assert "1 of 2 workers ended early" in stderr
    assert f"left: lora-s2s {shlex.join(command[3:])}\n" in stderr
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    trials = json.loads(done.stdout)["trials"]
    assert sorted(one["trial"] for one in trials) == list(range(5))
    assert {one["state"] for one in trials} <= {COMPLETE, STOPPED}
