"""``predict --scores``: labels with probabilities in every format, from a list or the training
data; calibrated once ``eval`` has scored them.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from cli_parts import Invoke

import lora_s2s

NAMES = ["billing", "delivery", "a refund"]


def write_rows(path: Path, first: int, count: int) -> None:
    rows = [
        {"source": f"message {n} about {NAMES[n % 3]}", "target": NAMES[n % 3]}
        for n in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def adapter(
    invoke: Invoke, here: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """adapters/labels, trained once on three labels and copied here with its data."""
    kept = tmp_path_factory.getbasetemp() / "labels"
    if not kept.exists():
        write_rows(here / "train.jsonl", 0, 60)
        write_rows(here / "validation.jsonl", 100, 30)
        write_rows(here / "test.jsonl", 200, 30)
        keys = (
            f"model.name={tiny_model}",
            *(f"data.{split}={split}.jsonl" for split in ("train", "validation", "test")),
            *("output.name=labels", "training.max_steps=2"),
        )
        invoke("train", "flan-t5-small", *(part for key in keys for part in ("--set", key)))
        shutil.copytree(here, kept)
    shutil.copytree(kept, here, dirs_exist_ok=True)
    return here / "adapters" / "labels"


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_rows_gain_fields_in_every_format(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    (here / "in.csv").write_text('id,source\n1,hello\n2,"bye, now"\n', encoding="utf-8")
    asked = ("predict", str(tiny_model), "--scores", "--labels", "billing, a refund")
    said = invoke(*asked, "--input", "in.csv", "--output", "out.jsonl")
    assert "2 labels; their probabilities are not calibrated" in said.stderr
    expected = rows_of((here / "out.jsonl").read_text(encoding="utf-8"))
    for row in expected:
        assert list(row) == ["id", "source", "prediction", "probability", "log_prob", "scores"]
        assert list(row["scores"]) == ["billing", "a refund"]
        assert sum(row["scores"].values()) == pytest.approx(1.0)
        assert row["scores"][row["prediction"]] == row["probability"] == max(row["scores"].values())
        assert row["log_prob"] < 0
    table = list(csv.DictReader(io.StringIO(invoke(*asked, "--input", "in.csv").stdout)))
    for row, cells in zip(expected, table, strict=True):
        assert json.loads(cells.pop("scores")) == row["scores"]
        assert cells == {key: str(row[key]) for key in cells}
    # The second has the fields already.
    for source, output in (("in.csv", "out.parquet"), ("out.parquet", "same.parquet")):
        invoke(*asked, "--input", source, "--output", output)
        assert pq.read_table(here / output).to_pylist() == expected
    more = ("predict", str(tiny_model), "--scores", "--labels", "x, y", "--input", "out.parquet")
    invoke(*more, "--output", "again.parquet")
    assert set(pq.read_table(here / "again.parquet").to_pylist()[0]["scores"]) == {"x", "y"}
    lines = invoke(*asked, "hello", "bye, now").stdout.splitlines()
    assert lines == [f"{row['prediction']}\t{row['probability']:.4f}" for row in expected]


def test_labels_come_from_a_file_or_the_training_targets(
    invoke: Invoke, here: Path, adapter: Path
) -> None:
    (here / "in.jsonl").write_text('{"source": "where is it"}\n', encoding="utf-8")
    asked = ("predict", "labels", "--scores", "--input", "in.jsonl")
    (trained,) = rows_of(invoke(*asked).stdout)
    assert set(trained["scores"]) == set(NAMES)
    (here / "labels.txt").write_text("\n".join([*reversed(NAMES), "", ""]), encoding="utf-8")
    (here / "labels.json").write_text(json.dumps(NAMES), encoding="utf-8")
    for name in ("labels.txt", "labels.json"):
        (named,) = rows_of(invoke(*asked, "--labels", name).stdout)
        assert named["scores"] == pytest.approx(trained["scores"], rel=1e-5)
    # The manifest holds them; of an older adapter, only the data it was trained on is read.
    write_rows(here / "train.jsonl", 0, 61)
    assert rows_of(invoke(*asked).stdout) == [trained]
    manifest = json.loads((adapter / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(manifest.pop("labels")["labels"]) == sorted(NAMES)
    (adapter / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "hint: name the labels: --labels" in invoke(*asked, code=3).stderr
    # Texts, not labels.
    rows = [{"source": f"m {n}", "target": f"text {n}"} for n in range(60)]
    (here / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = invoke(*asked, "--set", "data.train=texts.jsonl", code=2).stderr
    assert "the training targets of adapters/labels are no set of labels" in texts


def test_a_stopped_command_continues_with_the_same_labels(
    invoke: Invoke, here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_s2s.pipeline.predict._ROWS_AT_ONCE", 1)
    (here / "in.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    asked = ("predict", str(tiny_model), "--scores", "--input", "in.txt", "--labels")
    invoke(*asked, "a, b", "--output", "whole.jsonl")
    from lora_s2s.pipeline import predict

    scored, calls = predict.score, []

    def stopping(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scored(*given)

    monkeypatch.setattr(predict, "score", stopping)
    stopped = invoke(*asked, "a, b", "--output", "out.jsonl", code=130)
    assert "out.jsonl.part holds 2 of 3 answers; continue: " in stopped.stderr
    other = invoke(*asked, "a, c", "--output", "out.jsonl", "--resume", code=2)
    assert "was made with another decoding" in other.stderr
    invoke(*asked, "a, b", "--output", "out.jsonl", "--resume")
    assert (here / "out.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("--labels", "a, b"), 2, "--labels names what --scores chooses from"),
        (("--scores", "--labels", "none.txt"), 2, "no file 'none.txt', and no list of labels"),
        (("--scores", "--labels", "a, a"), 3, "the candidates hold 'a' twice"),
        (("--scores", "--labels", "a,"), 3, "candidate 2 of 2 is empty"),
        (("--scores", "--labels", "one.txt"), 3, "one candidate, 'a': expected at least two"),
        (("--scores", "--labels", "bad.json"), 3, "not a JSON list of texts"),
        (("--scores",), 2, "has no recipe that names training data"),
        (("--scores", "--interactive"), 2, "no files, and no --scores"),
    ],
)
def test_what_has_no_labels_is_refused(
    invoke: Invoke, here: Path, tiny_model: Path, words: tuple[str, ...], code: int, problem: str
) -> None:
    (here / "one.txt").write_text("a\n", encoding="utf-8")
    (here / "bad.json").write_text('{"a": 1}', encoding="utf-8")
    texts = () if "--interactive" in words else ("hello",)
    refused = invoke("predict", str(tiny_model), *texts, *words, code=code)
    assert problem in " ".join(refused.stderr.split())
    assert refused.stdout == ""


@pytest.mark.slow
def test_eval_fits_a_temperature_that_predict_uses(
    invoke: Invoke, here: Path, adapter: Path
) -> None:
    done = invoke("eval", "labels", "--json")
    labels = json.loads(done.stdout)["labels"]
    scored = labels["probabilities"]
    assert set(scored["labels"]) == set(NAMES)
    assert (scored["n"], scored["fitted_on"], scored["fitted_sources"]) == (30, "validation", 30)
    assert scored["nll"] > 0
    assert 0 <= scored["ece"] <= 100
    assert 0 <= scored["auroc"] <= 100
    assert "probabilities of 3 labels on 30 sources" in done.stderr
    assert done.stderr.endswith(' "your text" --scores\n')
    assert sum(entry["count"] for entry in labels["confusion"]) == 30
    manifest = json.loads((adapter / "manifest.json").read_text(encoding="utf-8"))
    assert [one["labels"]["probabilities"] for one in manifest["scores"].values()] == [scored]
    # A merged and an exported model have it too.
    invoke("merge", "labels", "--out", "merged", "--data", "test.jsonl")
    invoke("export", "merged", "--format", "safetensors", "--out", "exported")
    for name in ("merged", "exported"):
        constrained = ("--set", "evaluation.constraint=[billing, delivery]")
        calibrated = invoke("predict", name, "--scores", "hello", *constrained).stderr
        assert f"3 labels; calibrated: temperature {scored['temperature']:.3g}" in calibrated
        assert "evaluation.constraint is not used" in calibrated
    # Few rows of labels that the training data repeats are labels.
    write_rows(here / "few.jsonl", 300, 4)
    few = json.loads(invoke("eval", "labels", "--data", "few.jsonl", "--json").stdout)
    assert list(few["metrics"]) == ["exact_match", "macro_f1"]
    assert len(few["labels"]["table"]) == 3
    # It is used for these labels, without their data, and for no others.
    (here / "train.jsonl").unlink()
    (here / "one.jsonl").write_text('{"source": "hello"}\n', encoding="utf-8")
    said = invoke("predict", "labels", "--scores", "hello").stderr
    assert f"3 labels; calibrated: temperature {scored['temperature']:.3g}" in said
    row = rows_of(invoke("predict", "labels", "--scores", "--input", "one.jsonl").stdout)[0]
    ranking = lora_s2s.load("labels", progress=False).score("hello")
    assert ranking.to_dict() == {key: row[key] for key in ranking.to_dict()}
    other = invoke("predict", "labels", "--scores", "--labels", "billing, delivery", "hello").stderr
    assert "2 labels; their probabilities are not calibrated" in other
    # Without validation data nothing is fitted.
    manifest["scores"] = {}
    (adapter / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (here / "validation.jsonl").unlink()
    plain = json.loads(invoke("eval", "labels", "--data", "test.jsonl", "--json").stdout)
    assert plain["labels"]["probabilities"]["temperature"] is None
