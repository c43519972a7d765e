"""The verbs end to end on a tiny base: train, score, predict, merge, show; what is written and what
is left alone.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_parts import Invoke, listing, write_csv

import lora_s2s
from lora_s2s.errors import DataError
from lora_s2s.pipeline.adapted import train_token_ids
from lora_s2s.recipe.catalogue import shipped
from lora_s2s.recipe.load import load_recipe
from lora_s2s.tokens.loading import load_tokenizer
from lora_s2s.training.log import RunLog
from lora_s2s.training.plan import StepPlan

QUICK = (
    "--set",
    "training.max_steps=2",
    "--set",
    "training.batch_size=4",
    "--set",
    "evaluation.max_new_tokens=6",
)


def settings(tiny_model: Path, *more: str) -> list[str]:
    words = [f"model.name={tiny_model}", "data.train=train.csv", *more]
    return [part for word in words for part in ("--set", word)]


@pytest.fixture
def trained(
    invoke: Invoke, here: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An adapter folder, trained once for all tests of this file and copied here."""
    kept = tmp_path_factory.getbasetemp() / "trained"
    if not kept.exists():
        write_csv(here / "train.csv")
        result = invoke(
            "train", "flan-t5-small", *settings(tiny_model, "output.name=it"), *QUICK, "--json"
        )
        kept.mkdir()
        shutil.copytree(here / "adapters", kept / "adapters")
        shutil.copytree(here / "prepared", kept / "prepared")
        (kept / "train.json").write_text(result.stdout, encoding="utf-8")
    shutil.copytree(kept, here, dirs_exist_ok=True)
    write_csv(here / "train.csv")
    return here / "adapters" / "it"


@pytest.mark.parametrize("name", [name for name in shipped() if name != "demo"])
def test_a_shipped_recipe_without_data_names_the_command_with_data(
    invoke: Invoke, here: Path, name: str
) -> None:
    """Before a base is fetched."""
    commands = ("plan", "prepare", "train", "sweep") if name == "flan-t5-base" else ("plan",)
    for command in commands:
        error, hint = invoke(command, name, code=3).stderr.splitlines()
        assert error.startswith("error: no such file: ")
        assert error.endswith(" (data.train)")
        assert hint == f"hint: name your file: lora-s2s {command} {name} --data FILE"
    with pytest.raises(DataError, match=r"no such file: .* \(data\.train\)") as raised:
        lora_s2s.train(lora_s2s.load_recipe(name), progress=False)
    assert 'load_recipe(RECIPE, {"data.train": "FILE"})' in str(raised.value.hint)
    (here / "my.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    for command in ("plan", "sweep"):
        refused = invoke(command, "my.csv", code=2).stderr
        assert "hint: write its recipe first: lora-s2s init --data my.csv --yes" in refused


def test_prepare_reports_and_previews(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    write_csv(here / "train.csv")
    result = invoke(
        "prepare", "--data", "train.csv", "--model", str(tiny_model), "--out", "out", "--json"
    )
    report = json.loads(result.stdout)
    assert (report["out"], report["rows"]["kept"], sum(report["splits"].values())) == (
        "out",
        40,
        40,
    )
    assert "what is the number of house 13 of the street</s>" in result.stderr
    again = invoke("prepare", "--data", "train.csv", "--model", str(tiny_model), "--out", "out")
    assert "as before" in again.stderr
    assert "error: expected a RECIPE" in invoke("prepare", "--data", "train.csv", code=2).stderr


# Every recipe trains in tests/recipe/test_recipes_train.py.
@pytest.mark.parametrize("name", ["demo", "disfl-qa", "e2e-nlg", "flan-t5-base", "flan-t5-xxl"])
def test_a_shipped_recipe_dry_runs_and_leaves_nothing(
    invoke: Invoke, here: Path, tiny_nf4_model: Path, name: str
) -> None:
    columns = {"e2e-nlg": ("mr", "ref"), "disfl-qa": ("input", "target")}.get(
        name, ("question", "answer")
    )
    write_csv(here / "train.csv")
    text = (
        (here / "train.csv")
        .read_text(encoding="utf-8")
        .replace("question,answer", ",".join(columns))
    )
    (here / "train.csv").write_text(text, encoding="utf-8")
    words = settings(tiny_nf4_model, "data.validation=null", "data.test=null")
    before = listing(here)
    result = invoke("train", name, "--dry-run", *words, "--json")
    counted = json.loads(result.stdout)
    assert counted["recipe"]["output"]["name"] == name
    assert counted["steps"] >= 1
    assert 0 < counted["trainable_parameters"] < counted["total_parameters"]
    assert "trainable parameters" in result.stderr
    assert listing(here) == before


def test_a_dry_run_prints_a_recipe_that_loads(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    write_csv(here / "train.csv")
    (here / "schema.json").write_text('{"type": "integer"}', encoding="utf-8")
    # Without xgrammar such a constraint is refused.
    constraint = ["evaluation.constraint=json: schema.json"] if find_spec("xgrammar") else []
    words = settings(tiny_model, *constraint)
    words += ["--overwrite", "--set", "evaluation.metrics=[bleu, rougeL]"]
    result = invoke("train", "flan-t5-base", "--dry-run", *words)
    printed = result.stdout
    assert result.stderr.endswith(f"next: lora-s2s train flan-t5-base {shlex.join(words)}\n")
    (here / "schema.json").unlink()  # the recipe holds it
    (here / "resolved.yaml").write_text(printed, encoding="utf-8")
    assert invoke("train", "resolved.yaml", "--dry-run").stdout == printed


def test_a_packed_run_is_planned_and_trained(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    write_csv(here / "train.csv")
    words = settings(
        tiny_model, "training.packing=true", "training.tokens_per_batch=64", "output.name=packed"
    )
    planned = json.loads(invoke("train", "flan-t5-small", *words, "--dry-run", "--json").stdout)
    assert planned["batching"] == "up to 64 padded tokens, packed"
    assert (
        json.loads(invoke("train", "flan-t5-small", *words, *QUICK[:2], "--json").stdout)["steps"]
        == 2
    )


def test_train_writes_the_promised_folder(invoke: Invoke, here: Path, trained: Path) -> None:
    printed = json.loads((here / "train.json").read_text(encoding="utf-8"))
    promised = (
        "adapter steps epochs train_loss validation_loss trainable_parameters total_parameters "
        "tokens tokens_per_second peak_memory_bytes resumed_from stopped"
    )
    for key in promised.split():
        assert key in printed
    assert (printed["adapter"], printed["steps"]) == ("adapters/it", 2)
    names = {path.name for path in trained.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "recipe.yaml",
        "manifest.json",
        "metrics.jsonl",
        "README.md",
        "report.html",
        "checkpoints",
        "tokenizer.json",
        "loss_curve.png",
    } <= names
    manifest = json.loads((trained / "manifest.json").read_text(encoding="utf-8"))
    assert {"base", "data", "input", "versions", "device", "counts", "scores", "training"} <= set(
        manifest
    )
    assert manifest["input"]["source_column"] == "question"
    assert not (here / "adapters" / "it.running").exists()


def test_a_finished_adapter_is_not_overwritten_by_accident(
    invoke: Invoke, here: Path, trained: Path, tiny_model: Path
) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    result = invoke("train", "adapters/it/recipe.yaml", code=2)
    assert "error: adapters/it exists already\nhint: " in result.stderr
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    invoke("train", "adapters/it/recipe.yaml", "--overwrite", "--set", "training.max_steps=1")
    assert (
        json.loads((trained / "manifest.json").read_text(encoding="utf-8"))["training"]["steps"]
        == 1
    )
    assert listing(here / "adapters")[0] == "it"


def test_the_resolved_recipe_repeats_the_run_bit_for_bit(
    invoke: Invoke, here: Path, trained: Path
) -> None:
    invoke("train", "adapters/it/recipe.yaml", "--set", "output.name=again")
    weights = [here / "adapters" / name / "adapter_model.safetensors" for name in ("it", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_an_unfinished_run_asks_and_resumes(
    invoke: Invoke, here: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(trained, here / "adapters" / "it.running")
    asked = invoke("train", "adapters/it.running/recipe.yaml", code=2)
    assert "adapters/it.running holds an unfinished run" in asked.stderr
    assert "--resume" in asked.stderr
    assert "--overwrite" in asked.stderr
    result = invoke("train", "adapters/it.running/recipe.yaml", "--resume", "--json")
    assert json.loads(result.stdout)["resumed_from"] == 2
    assert listing(here / "adapters")[0] == "it"


@pytest.mark.parametrize(
    ("probability", "line", "steps", "stopped"),
    [
        (
            0.96,
            "no gain in the last 3 validations; the best is that of step 1, and",
            4,
            "early_stopping",
        ),
        (0.98, "the right answers have a probability of 98% on average; the best is", 1, None),
    ],
)
def test_a_run_with_little_to_gain_ends_by_the_command_that_it_shows(
    invoke: Invoke,
    here: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    probability: float,
    line: str,
    steps: int,
    stopped: str | None,
) -> None:
    write_csv(here / "train.csv")
    monkeypatch.setattr(StepPlan, "answer_probability", lambda *_: probability)
    notice = RunLog.notice

    def interrupted(log: RunLog, *about: Any) -> None:
        notice(log, *about)
        if log._noticed:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunLog, "notice", interrupted)
    long = ("training.max_steps=9", "training.evaluate_every=1", "training.learning_rate=1e-30")
    words = settings(tiny_model, *long, "training.batch_size=4", "output.name=it")
    said = invoke("train", "flan-t5-small", *words, code=130).stderr
    assert line in said
    command = said.partition("Ctrl-C, then lora-s2s ")[2].splitlines()[0]
    ended = invoke(*shlex.split(command), "--json")
    result = json.loads(ended.stdout)
    assert (result["steps"], result["stopped"], result["kept_step"]) == (steps, stopped, 1)
    assert (" (weights of step 1), " in ended.stderr) is (steps > 1)
    assert (here / "adapters/it/adapter_model.safetensors").is_file()


def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    words = settings(tiny_model, "training.early_stopping=2", "data.validation_fraction=0")
    assert "early_stopping" in invoke("train", "flan-t5-small", *words, code=2).stderr
    assert not (here / "adapters").exists() or listing(here / "adapters") == []


def test_an_output_folder_that_cannot_be_written_is_told_first(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    (here / "taken").write_text("a file", encoding="utf-8")
    before = listing(here)
    result = invoke("train", "flan-t5-small", *settings(tiny_model, "output.dir=taken/x"), code=2)
    assert result.stderr.startswith("error: cannot write into taken")
    assert listing(here) == before


def test_eval_scores_writes_and_refreshes_the_adapter(
    invoke: Invoke, here: Path, trained: Path
) -> None:
    write_csv(here / "held.csv", rows=6)
    result = invoke("eval", "adapters/it", "--data", "held.csv", "--baseline", "--json")
    scores = json.loads(result.stdout)
    assert scores["n"] == 6
    assert (
        list(scores["metrics"]) == ["exact_match", "token_f1", "chrf"] == list(scores["baseline"])
    )
    assert (
        "metrics: exact_match, token_f1, chrf (each source has one short answer)" in result.stderr
    )
    assert {"value", "interval", "signature"} <= set(scores["metrics"]["chrf"])
    assert "p_value" in scores["difference"]["chrf"]
    assert scores["predictions"] == "adapters/it/evaluations/held/predictions.jsonl"
    rows = [
        json.loads(line)
        for line in Path(scores["predictions"]).read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) == 6
    assert "held" in json.loads((trained / "manifest.json").read_text(encoding="utf-8"))["scores"]
    assert "chrf" in (trained / "README.md").read_text(encoding="utf-8")
    assert "chrf" in result.stderr


def test_eval_without_data_takes_the_held_out_split(invoke: Invoke, trained: Path) -> None:
    result = invoke("eval", "adapters/it", "--limit", "1", "--json")
    assert json.loads(result.stdout)["n"] == 1
    assert "validation split" in result.stderr
    assert "trained on" not in result.stderr
    assert "report: adapters/it/report.html" in result.stderr
    assert (
        trained / "evaluations" / "validation"
    ).is_dir()  # the split has but one row, so it is no sample
    sample = invoke("eval", "adapters/it", "--data", "train.csv", "--limit", "7", "--json")
    assert json.loads(sample.stdout)["n"] == 7
    assert "scoring a random sample of 7 of 40 sources" in sample.stderr
    assert (trained / "evaluations" / "train-sample-7").is_dir()
    seen = "of 7 sources were trained on: the score is not one of unseen data"
    assert seen in sample.stderr
    assert seen in json.loads(sample.stdout)["notes"][0]
    assert seen in (trained / "report.html").read_text(encoding="utf-8")
    shutil.rmtree("prepared")
    sample = invoke("eval", "adapters/it", "--data", "train.csv", "--limit", "7", "--json")
    assert json.loads(sample.stdout)["notes"][0].startswith("train.csv is training data")
    write_csv(Path("held.csv"), rows=6)
    other = invoke("eval", "adapters/it", "--data", "held.csv", "--json")
    assert "trained on" not in other.stderr
    assert "training data of this" not in other.stderr


def test_eval_finds_the_columns_of_a_file_that_names_them_otherwise(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    words = settings(
        tiny_model, "data.source_column=question", "data.target_column=answer", "output.name=named"
    )
    invoke("train", "flan-t5-small", *words, *QUICK)
    (here / "other.jsonl").write_text('{"input": "a b", "output": "c"}\n', encoding="utf-8")
    assert (
        json.loads(invoke("eval", "adapters/named", "--data", "other.jsonl", "--json").stdout)["n"]
        == 1
    )
    wrong = invoke(
        "eval",
        "adapters/named",
        "--data",
        "other.jsonl",
        "--set",
        "data.source_column=inptu",
        code=3,
    )
    assert "no column 'inptu' (did you mean 'input'?)" in wrong.stderr


def test_eval_keeps_a_named_column_that_only_later_rows_have(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    words = settings(
        tiny_model, "data.source_column=question", "data.target_column=answer", "output.name=named"
    )
    invoke("train", "flan-t5-small", *words, *QUICK)
    rows = (
        '{"input": "a", "output": "b"}\n{"question": "c", "answer": "d", "input": "e", "output": '
        '"f"}\n'
    )
    (here / "late.jsonl").write_text(rows, encoding="utf-8")
    shown = invoke("eval", "adapters/named", "--data", "late.jsonl").stderr
    assert shown.endswith('next: lora-s2s predict adapters/named "your text"\n')
    scored = (here / "adapters/named/evaluations/late/predictions.jsonl").read_text(
        encoding="utf-8"
    )
    assert [json.loads(line)["source"] for line in scored.splitlines()] == ["c"]


def test_overwrite_leaves_a_living_run_alone(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    write_csv(here / "train.csv")
    (here / "adapters/it.running/checkpoints").mkdir(parents=True)
    descriptor = os.open(here / "adapters/.it.running.lock", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"process 1 on another")
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    words = settings(tiny_model, "output.name=it")
    train = ("train", "flan-t5-small", *words, *QUICK)
    others = ("predict", "it", "x"), ("merge", "it", "--out", "whole"), ("push", "it", "me/it")
    for command in (train, (*train, "--overwrite"), (*train, "--resume"), *others):
        refused = invoke(*command, code=2).stderr
        assert "another run is training in adapters/it.running: process 1 on another" in refused
        assert "hint: wait for it, or " in refused
    assert "another run is training" in invoke("eval", "adapters/it", code=2).stderr
    line = "it: unfinished, 40 steps of 500 saved; training now: process 1 on another\n"
    for step in ("step-000008", "step-000040", "step-odd"):
        (here / "adapters/it.running/checkpoints" / step).mkdir()
    recipe = "extends: demo\ntraining: {max_steps: 500}\n"
    (here / "adapters/it.running/recipe.yaml").write_text(recipe, encoding="utf-8")
    assert line in invoke("adapters").stderr
    os.close(descriptor)
    command = "lora-s2s train adapters/it.running/recipe.yaml --resume"
    assert (
        f"it: unfinished, 40 steps of 500 saved; continue: {command}\n" in invoke("adapters").stderr
    )
    [run] = json.loads(invoke("adapters", "--json").stdout)["unfinished"]
    assert (run["step"], run["process"], run["command"]) == (40, None, command)
    assert "adapters/it has not finished" in invoke("eval", "it", code=2).stderr
    assert (here / "adapters/it.running/checkpoints").is_dir()


def test_data_that_is_gone_leads_to_what_was_prepared_from_it(
    invoke: Invoke, here: Path, trained: Path
) -> None:
    (here / "train.csv").unlink()
    hint = "hint: it was prepared before; train on that: lora-s2s train prepared/it\n"
    train = ("train", str(trained / "recipe.yaml"), "--overwrite")
    for command in (train, ("plan", *train[1:2])):
        assert hint in invoke(*command, code=3).stderr
    shutil.copy(trained / "recipe.yaml", "train.yaml")
    made = "hint: what was made of such a file is here: lora-s2s train"
    assert f"{made} train.yaml\n" in invoke("train", "train.csv", code=2).stderr
    shutil.copytree(here / "prepared/it", here / "prepared/train")
    assert f"{made} prepared/train\n" in invoke("train", "train.csv", code=2).stderr
    hint = "hint: name where it is now: --data FILE; it was prepared before; score on that: "
    hint += "lora-s2s eval adapters/it --data prepared/it\n"
    assert hint in invoke("eval", "it", code=3).stderr
    (here / "prepared/it/recipe.yaml").write_text("extends: demo\n", encoding="utf-8")
    assert "hint: name your file: " in invoke(*train, code=3).stderr


def test_prepare_takes_an_out_folder_of_any_name(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    invoke("prepare", "--data", "train.csv", "--model", str(tiny_model), "--out", "My data (1)")
    assert (here / "My data (1)" / "manifest.json").is_file()


def test_merge_prepares_nothing(invoke: Invoke, here: Path, trained: Path) -> None:
    shutil.rmtree(here / "prepared")
    invoke("merge", "adapters/it", "--out", "merged")
    assert not (here / "prepared").exists()


def predicted(result: Any) -> list[str]:
    return result.stdout.split("\n")[:-1]


def test_predict_gives_a_line_for_a_line_and_a_row_for_a_row(
    invoke: Invoke, here: Path, trained: Path
) -> None:
    texts = ["what is the number of house 3", "house [bold]", "<b>"]
    lines = predicted(invoke("predict", "adapters/it", *texts))
    assert len(lines) == 3
    assert predicted(invoke("predict", "adapters/it", "-", input="\n".join(texts))) == lines
    assert (
        len(predicted(invoke("predict", "adapters/it", "-", input="one\u2028line\r\ntwo\n"))) == 2
    )
    piped = "".join(json.dumps({"question": text, "id": 7}) + "\n" for text in texts)
    rows = [
        json.loads(line)
        for line in predicted(invoke("predict", "adapters/it", "--input", "-", input=piped))
    ]
    assert [(row["id"], row["prediction"]) for row in rows] == [(7, line) for line in lines]
    assert (
        predicted(invoke("predict", "adapters/it", "--input", "-", input="\n".join(texts))) == lines
    )
    assert (
        "is a folder" in invoke("predict", "adapters/it", "a", "--output", str(here), code=2).stderr
    )
    (here / "in.txt").write_text("\r\n".join(texts), encoding="utf-8")
    invoke("predict", "adapters/it", "--input", "in.txt", "--output", "out.txt")
    assert (here / "out.txt").read_text(encoding="utf-8").split("\n")[:-1] == lines
    rows = [{"question": text, "id": number} for number, text in enumerate(texts)]
    (here / "in.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    answered = [
        json.loads(line)
        for line in predicted(invoke("predict", "adapters/it", "--input", "in.jsonl"))
    ]
    assert [row["prediction"] for row in answered] == lines
    assert [{key: row[key] for key in ("question", "id")} for row in answered] == rows


def test_an_empty_answer_keeps_its_line(
    invoke: Invoke, here: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_s2s.inference.decode import Prediction

    answers = [Prediction("one", 1, True), Prediction("", 0, True)]
    monkeypatch.setattr("lora_s2s.inference.decode.decode", lambda *_: answers)
    assert invoke("predict", "adapters/it", "a", "b").stdout == "one\n\n"


def test_predict_says_which_row_cannot_be_read(invoke: Invoke, here: Path, trained: Path) -> None:
    (here / "in.jsonl").write_text('{"question": "a"}\n{"quest": "b"}\n', encoding="utf-8")
    before = listing(here)
    result = invoke(
        "predict", "adapters/it", "--input", "in.jsonl", "--output", "out.jsonl", code=3
    )
    assert "'question'" in result.stderr
    assert "  at: in.jsonl, row 2\n" in result.stderr
    assert listing(here) == before
    assert "not both" in invoke("predict", "adapters/it", "a", "--input", "in.jsonl", code=2).stderr


def test_an_answer_of_several_lines_is_kept_where_it_can_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lora_s2s.pipeline.inputs import Inputs, read_inputs
    from lora_s2s.pipeline.predictions import lines_of

    inputs = Inputs.of(["a", "b"], ["1", "2"])
    answers = ["one\ntwo\u2028three\r", "four"]
    assert "".join(lines_of(inputs, answers)) == "one two three\nfour\n"
    assert "the lines of 1 answers" in capsys.readouterr().err
    rows = [json.loads(line) for line in lines_of(inputs, answers, output="x.jsonl")]
    assert rows == [{"text": "a", "prediction": answers[0]}, {"text": "b", "prediction": "four"}]
    assert "".join(lines_of(read_inputs(["a"], None), ["x {\n\n}"])) == "x {\n\n}\n"
    assert capsys.readouterr().err == ""


def test_predict_reads_files_of_lines_and_headerless_columns(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lora_s2s.pipeline.inputs import read_inputs

    def items(name: str, *, parallel: bool = False) -> list[object]:
        return [item for item, _ in read_inputs([], name, parallel=parallel)]

    (here / "dev.en").write_text("a cat, and\nb\n", encoding="utf-8")
    assert items("dev.en") == ["a cat, and", "b"]
    (here / "two.tsv").write_text("a\tx\nb\ty\n", encoding="utf-8")
    rows = [{"source": "a", "target": "x"}, {"source": "b", "target": "y"}]
    assert items("two.tsv", parallel=True) == rows
    assert items("two.tsv") == [{"a": "b", "x": "y"}]
    (here / "one.tsv").write_text("a\nb\n", encoding="utf-8")
    assert items("one.tsv", parallel=True) == ["a", "b"]
    for name, content in {"a.txt": "Größe\n", "a.csv": "text\nGröße\n", "b.txt": "size\n"}.items():
        (here / name).write_bytes(content.encode("mac_roman"))
        assert read_inputs([], name, encoding="cp1252").count == 1
    pq.write_table(pa.table({"text": ["Größe", "ä"]}), here / "a.parquet")
    assert read_inputs([], "a.parquet", encoding="cp1252").count == 2
    said = "a.{} is not UTF-8: byte 0x9A in line {} reads 'Grš' in cp1252\n"  # as it is read
    assert capsys.readouterr().err == said.format("txt", 1) + said.format("csv", 2)
    (here / "zero.txt").symlink_to(os.devnull)
    with pytest.raises(DataError, match="a device or a pipe"):
        read_inputs([], "zero.txt")


def test_eval_of_the_held_out_split_leaves_the_prepared_data_as_it_is(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    rows = [{"instruction": f"name house {number}", "output": "it"} for number in range(30)]
    (here / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = settings(tiny_model, "data.train=a.jsonl", "data.format=alpaca", "output.name=it")
    invoke(
        "train",
        "flan-t5-small",
        *words,
        "--set",
        "data.template=['{instruction}', 'Do: {instruction}']",
        *QUICK,
    )
    before = (here / "prepared" / "it" / "manifest.json").read_bytes()
    invoke("eval", "adapters/it", "--limit", "2")
    assert (here / "prepared" / "it" / "manifest.json").read_bytes() == before


def test_merge_writes_a_model_that_answers_the_same(
    invoke: Invoke, here: Path, trained: Path
) -> None:
    report = json.loads(invoke("merge", "adapters/it", "--out", "merged", "--json").stdout)
    for key in (
        "out",
        "onto",
        "dtype",
        "max_logit_difference",
        "mean_logit_difference",
        "top1_changed",
    ):
        assert key in report
    assert report["dtype"] == "float32"
    texts = ["what is the number of house 7", "seven"]
    words = ["--set", "evaluation.max_new_tokens=6"]
    assert (
        invoke("predict", "merged", *texts, *words).stdout
        == invoke("predict", "adapters/it", *texts).stdout
    )
    assert (
        "merged exists already" in invoke("merge", "adapters/it", "--out", "merged", code=2).stderr
    )


def test_tokens_that_train_from_the_recipe_to_the_merged_model(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    words = settings(
        tiny_model, "output.name=it", "lora.train_tokens=[<extra_id_0>, ▁house, <extra_id_0>]"
    )
    result = json.loads(invoke("train", "flan-t5-small", *words, *QUICK, "--json").stdout)
    plain = json.loads(
        invoke("train", "flan-t5-small", *settings(tiny_model), "--dry-run", "--json").stdout
    )
    assert (
        result["trainable_parameters"] == plain["trainable_parameters"] + 2 * 2 * 16
    )  # in embeddings and head
    assert (
        json.loads((here / "adapters/it/manifest.json").read_text(encoding="utf-8"))["counts"][
            "train_tokens"
        ]
        == 2
    )
    report = json.loads(invoke("merge", "adapters/it", "--out", "merged", "--json").stdout)
    assert report["max_logit_difference"] < 1e-3
    said = ("what is the number of house 7", "<extra_id_0>", "--set", "evaluation.max_new_tokens=6")
    assert (
        invoke("predict", "merged", *said).stdout == invoke("predict", "adapters/it", *said).stdout
    )
    untrained = settings(tiny_model, "data.lossless_text=on", "lora.train_tokens=[]")
    assert (
        "none of them is trained"
        in invoke("train", "flan-t5-small", *untrained, "--dry-run").stderr
    )
    wrong = settings(tiny_model, "output.name=no", "lora.train_tokens=[▁hous]")
    told = invoke("train", "flan-t5-small", *wrong, code=2).stderr
    assert "no token '▁hous' (did you mean '▁house'?)" in told


def test_tokens_that_carry_characters_train_unless_others_are_named() -> None:
    def recipe(*words: str) -> Any:
        sets = ["model.name=demo", "data.train=x.csv", "output.name=x", *words]
        return load_recipe("flan-t5-small", sets)

    tokenizer = load_tokenizer("demo")
    assert train_token_ids(recipe(), tokenizer, []) == []
    assert train_token_ids(recipe(), tokenizer, [2541, 2540]) == [2540, 2541]
    assert train_token_ids(recipe("lora.train_tokens=[]"), tokenizer, [2540]) == []
    assert train_token_ids(recipe("lora.train_tokens=[</s>, <pad>]"), tokenizer, [2540]) == [
        0,
        1,
        2540,
    ]


def test_a_quantized_run_from_training_to_both_merges(
    invoke: Invoke, here: Path, tiny_nf4_model: Path
) -> None:
    write_csv(here / "train.csv")
    quantized = ("model.quantization=nf4", "model.skip_quantization=[wo]")
    words = settings(tiny_nf4_model, *quantized, "output.name=q")
    trained = invoke(
        "train", "flan-t5-small", *words, *QUICK, "--set", "training.optimizer=adamw-8bit"
    )
    assert (
        "parameters train, the base in nf4 but for wo, the rest float32, on cpu" in trained.stderr
    )
    manifest = json.loads((here / "adapters" / "q" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["base"]["quantization"], manifest["base"]["skip_quantization"]) == (
        "nf4",
        ["wo"],
    )
    texts = ["what is the number of house 7", "seven"]
    asked = ("--set", "evaluation.max_new_tokens=6")
    answers = invoke("predict", "adapters/q", *texts, *asked).stdout
    found = {}
    for onto in ("original", "dequantized"):
        result = invoke("merge", "adapters/q", "--out", onto, "--onto", onto, "--json")
        found[onto] = json.loads(result.stdout)
        assert "closer to the trained model: dequantized" in result.stderr
        assert not json.loads((here / onto / "config.json").read_text(encoding="utf-8")).get(
            "quantization_config"
        )
    assert invoke("predict", "dequantized", *texts, *asked).stdout == answers
    assert (
        found["dequantized"]["max_logit_difference"]
        < 1e-3
        < found["original"]["max_logit_difference"]
    )
    assert found["original"]["other"]["dequantized"]["max_logit_difference"] < 1e-3
    again = invoke("train", "adapters/q/recipe.yaml", "--dry-run").stdout
    assert "quantization: nf4" in again


def test_a_merged_model_is_scored_with_the_template_it_was_trained_with(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    write_csv(here / "train.csv")
    words = settings(tiny_model, "data.template=Answer: {question}", "output.name=asked")
    invoke("train", "flan-t5-small", *words, *QUICK)
    invoke("merge", "adapters/asked", "--out", "merged")
    common = (
        "--data",
        "train.csv",
        "--limit",
        "3",
        "--set",
        "evaluation.max_new_tokens=6",
        "--json",
    )
    whole = json.loads(invoke("eval", "merged", "--out", "scored", *common).stdout)
    assert (
        whole["metrics"] == json.loads(invoke("eval", "adapters/asked", *common).stdout)["metrics"]
    )
    first = json.loads(
        (here / "scored" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0]
    )
    assert first["source"].startswith("Answer: what is")


def test_adapters_lists_shows_and_compares(invoke: Invoke, here: Path, trained: Path) -> None:
    shutil.copytree(trained, here / "adapters" / "two")
    manifest = json.loads((trained / "manifest.json").read_text(encoding="utf-8"))
    manifest["training"]["steps"] = 77
    (here / "adapters" / "two" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    listed = json.loads(invoke("adapters", "--json").stdout)["adapters"]
    assert [entry["name"] for entry in listed] == ["it", "two"]
    assert "two" in invoke("adapters").stderr
    assert json.loads(invoke("adapters", "show", "it", "--json").stdout)["path"] == "adapters/it"
    assert "training steps" in invoke("adapters", "show", "adapters/two").stderr
    assert "77" in invoke("adapters", "compare", "it", "two").stderr
    assert "did you mean 'two'" in invoke("adapters", "show", "twoo", code=3).stderr


def test_the_demo_goes_all_the_way(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    words = [
        f"model.name={tiny_model}",
        "evaluation.limit=5",
        "evaluation.max_new_tokens=5",
        "training.batch_size=4",
    ]
    sets = [part for word in (*words, "training.max_steps=2") for part in ("--set", word)]
    result = invoke("demo", "--json", *sets)
    printed = json.loads(result.stdout)
    assert {"base", "adapter", "seconds", "adapter_dir", "merged_dir"} <= set(printed)
    assert (printed["n"], printed["merged_equal"]) == (5, True)
    assert set(printed["base"]) == set(printed["adapter"])
    assert (here / printed["adapter_dir"] / "report.html").is_file()
    assert (here / printed["merged_dir"] / "config.json").is_file()
    assert result.stderr.count("\nmessage  ") == 3
    assert listing(here)[0] == "lora-s2s-demo"
    invoke("demo", *sets)


def test_eval_and_merge_run_no_code_that_lies_in_a_models_folder(
    invoke: Invoke, here: Path, trained: Path, tiny_model: Path
) -> None:
    (trained / "payload.py").write_text(
        "raise SystemExit('the folder ran its code')\n", encoding="utf-8"
    )
    name = "adapters.it.payload:run"
    recipe = (trained / "recipe.yaml").read_text(encoding="utf-8")
    (trained / "recipe.yaml").write_text(
        recipe.replace("format: auto", f"format: {name}"), encoding="utf-8"
    )
    told = invoke("eval", "adapters/it", "--data", "train.csv", code=3).stderr
    assert f"reads rows with its own code, '{name}'" in told
    invoke("merge", "adapters/it", "--out", "merged")
    manifest = json.loads((here / "merged" / "manifest.json").read_text(encoding="utf-8"))
    manifest["input"]["format"] = name
    (here / "merged" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert (
        "runs only where you name it"
        in invoke("eval", "merged", "--data", "train.csv", code=2).stderr
    )
    invoke("predict", "merged", "house 1")
    (here / "mine.py").write_text(
        "def rows(row): return row['question'], row['answer']\n", encoding="utf-8"
    )
    words = ("--data", "train.csv", "--limit", "2", "--set", "data.format=mine:rows")
    assert json.loads(invoke("eval", "merged", *words, "--json").stdout)["n"] == 2
