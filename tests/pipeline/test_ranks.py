"""Several processes answer what one answers, in its groups and its order, and leave its files."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import programs
import pytest
from cli_parts import Invoke
from preloaded import Preloaded

from lora_s2s.errors import UsageError
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline import kept_answers, ranks
from lora_s2s.pipeline.engines import predictor_on
from lora_s2s.pipeline.inputs import Inputs
from lora_s2s.pipeline.kept_answers import KeptAnswers
from lora_s2s.pipeline.predict import Work, answer_into
from lora_s2s.pipeline.ranks import Ranks
from lora_s2s.recipe.load import load_recipe

TEXTS = [f"w{n} w{n % 7}" for n in range(1, 11)]
SETTINGS = DecodingSettings(max_new_tokens=5, num_beams=2, n_best=2)
Together = Callable[[int, Callable[[Ranks], Any]], list[Any]]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Together:
    """``together(count, act)``: ranks are threads, and messages stay in this process."""
    wires: dict[tuple[int, int], queue.Queue[str]] = defaultdict(queue.Queue)
    this = threading.local()

    def sent(value: object, rank: int) -> list[Any]:
        wires[this.rank, rank].put(json.dumps(value))
        return []

    def received(rank: int) -> Any:
        return json.loads(wires[rank, this.rank].get(timeout=120))

    monkeypatch.setattr(ranks, "_sent", sent)
    monkeypatch.setattr(ranks, "_received", received)

    def run(count: int, act: Callable[[Ranks], Any]) -> list[Any]:
        results: list[Any] = [None] * count

        def one(rank: int) -> None:
            this.rank = rank
            try:
                results[rank] = act(Ranks(rank, count))
            except UsageError as error:
                results[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(1, count)]
        for thread in threads:
            thread.start()
        one(0)
        for thread in threads:
            thread.join()
        return results

    return run


@pytest.fixture
def predictors(tiny_predictor: Callable[..., Predictor]) -> list[Predictor]:
    """The same model for each process."""
    return [tiny_predictor() for _ in range(5)]


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The sources that are decoded together, three at most."""
    seen: list[tuple[str, ...]] = []

    def watched(predictor: Predictor, sources: Sequence[str], *more: Any) -> Any:
        seen.append(tuple(sources))
        return decode(predictor, sources, *more)

    monkeypatch.setattr("lora_s2s.pipeline.predict._ROWS_AT_ONCE", 3)
    monkeypatch.setattr(kept_answers, "AT_ONCE", 3)
    monkeypatch.setattr("lora_s2s.pipeline.predict.decode", watched)
    monkeypatch.setattr(kept_answers, "decode", watched)
    return seen


def predicted(
    predictors: Sequence[Predictor], output: Path, own: Ranks, *, resume: bool = False
) -> None:
    """What ``predict`` does in one process of several."""
    inputs = Inputs.of(TEXTS, TEXTS)
    work = Work(predictors[own.rank], inputs, SETTINGS, ranks=own)
    if own.first:
        answer_into(output, work, resume=resume)
    else:
        assert [*work.answers()] == []


@pytest.mark.parametrize("count", [2, 3, 5])
def test_predictions_are_those_of_one_process(
    tmp_path: Path,
    predictors: list[Predictor],
    together: Together,
    groups: list[tuple[str, ...]],
    count: int,
) -> None:
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    predicted(predictors, alone, ranks.ALONE)
    one = sorted(groups)
    groups.clear()
    assert together(count, lambda own: predicted(predictors, shared, own)) == [None] * count
    assert shared.read_bytes() == alone.read_bytes()
    assert sorted(groups) == one
    assert sorted(path.name for path in tmp_path.iterdir()) == [alone.name, shared.name]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (3, 2)])
def test_a_stopped_run_continues_in_another_number_of_processes(
    tmp_path: Path,
    predictors: list[Predictor],
    together: Together,
    groups: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    before: int,
    after: int,
) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    predicted(predictors, whole, ranks.ALONE)
    one = sorted(groups)
    with monkeypatch.context() as stopping:
        stopping.setattr("lora_s2s.pipeline.predict.write_answers", lambda *_: None)
        stopping.setattr("lora_s2s.pipeline.unfinished.Unfinished.remove", lambda _: None)
        together(before, lambda own: predicted(predictors, parts, own))
    part = tmp_path / "parts.jsonl.part"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[: 1 + 4]) + lines[5][:4])  # cut off in the second group
    groups.clear()
    together(after, lambda own: predicted(predictors, parts, own, resume=True))
    assert parts.read_bytes() == whole.read_bytes()
    assert sorted(groups) == [group for group in one if group != tuple(TEXTS[:3])]


@pytest.mark.parametrize("count", [2, 3])
def test_an_evaluation_decodes_in_turn(
    tmp_path: Path,
    predictors: list[Predictor],
    together: Together,
    groups: list[tuple[str, ...]],
    count: int,
) -> None:
    def answered(own: Ranks) -> Any:
        kept = KeptAnswers(tmp_path / f"{own.count}", resume=False, ranks=own)
        return kept.decode("decode", predictors[own.rank], TEXTS, SETTINGS, "tiny")

    alone = answered(ranks.ALONE)
    one = sorted(groups)
    groups.clear()
    first, *others = together(count, answered)
    assert first == alone
    assert others == [[]] * (count - 1)
    assert sorted(groups) == one


@pytest.mark.parametrize("machines", [1, 2])
def test_one_process_of_a_machine_exports_and_all_load_that(
    together: Together, monkeypatch: pytest.MonkeyPatch, machines: int
) -> None:
    made: list[Path] = []
    if machines == 2:
        monkeypatch.setattr(Ranks, "leads", property(lambda own: own.rank in (0, 2)))

    def export(model: str, out: Path, **_more: Any) -> None:
        made.append(out)
        out.mkdir()

    def load(folder: str) -> Any:
        assert Path(folder).is_dir()
        return folder

    monkeypatch.setattr("lora_s2s.pipeline.engines.export_model", export)
    monkeypatch.setattr("lora_s2s.pipeline.engines.load_predictor", load)
    recipe = load_recipe("demo")

    def loaded(own: Ranks) -> Any:
        return predictor_on("ct2", "demo", recipe, base=None, data=None, ranks=own)

    folders = together(4, loaded)
    assert len(made) == len(set(folders)) == machines
    assert folders == sorted(folders, key=folders.index)
    assert not any(out.exists() for out in made)


def test_processes_that_see_other_inputs_are_refused(
    tmp_path: Path, predictors: list[Predictor], together: Together
) -> None:
    def act(own: Ranks) -> None:
        texts = TEXTS if own.first else TEXTS[1:]
        work = Work(predictors[own.rank], Inputs.of(texts, texts), SETTINGS, ranks=own)
        if own.first:
            answer_into(tmp_path / "out.txt", work, resume=False)
        else:
            own.check_same({"input": work.identity["input"], "versions": "other"})

    first, _ = together(2, act)
    assert "process 1 has another input and model and decoding and versions" in str(first)
    assert not [*tmp_path.iterdir()]


@pytest.mark.long
def test_real_processes_write_the_same_file_and_one_that_is_killed_is_named() -> None:
    words = ["--rows", "2500", "--kills", "1", "--processes", "2"]
    command = [sys.executable, str(programs.ROOT / "benchmarks" / "killed_ranks.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kills"] == 1


@pytest.mark.slow
def test_an_evaluation_by_a_launcher_writes_the_same_files(
    invoke: Invoke, here: Path, tiny_model: Path, preloaded: Preloaded
) -> None:
    rows = [{"source": f"the number {n}", "target": f"is {n}"} for n in range(1_100)]
    (here / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    asked = ["eval", str(tiny_model), "--data", "many.jsonl", "--json"]
    asked += ["--set", "evaluation.max_new_tokens=4", "--set", "evaluation.metrics=[chrf,loss]"]
    alone = invoke(*asked, "--out", "alone")
    done, *others = preloaded.run_together(here, 3, *asked, "--out", "shared")
    assert done.code == 0, done.stderr
    assert [(other.code, other.stdout) for other in others] == [(0, "")] * 2
    for name in ("predictions.jsonl", "scores.json"):
        assert (here / "shared" / name).read_bytes() == (here / "alone" / name).read_bytes()
    assert done.stdout.replace("shared/", "alone/") == alone.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("predict", "demo", "--interactive"), "predict --interactive runs in one process"),
        (("predict", "demo", "-"), "several processes cannot read stdin"),
        (("eval", "--from", "p.jsonl"), "--from decodes nothing"),
        (("serve", "demo"), "serve runs in one process, but 2 were started"),
        (("ui", "demo"), "ui runs in one process, but 2 were started"),
    ],
)
def test_what_one_process_does_alone_is_refused_by_name(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, words: Sequence[str], problem: str
) -> None:
    if words[0] in ("predict", "eval"):
        assert problem in invoke(*words, "--processes", "2", code=2).stderr
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert problem in invoke(*words, code=2).stderr
