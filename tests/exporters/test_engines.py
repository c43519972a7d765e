"""An exported folder answers wherever a model does: predict, eval, load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Invoke, write_bookings
from fastapi.testclient import TestClient

import lora_s2s
from lora_s2s.errors import DataError, UsageError
from lora_s2s.inference import score as scoring
from lora_s2s.inference.engine import DecodingSettings, WatchedEngine
from lora_s2s.inference.loading import load_predictor
from lora_s2s.pipeline.names import named_models
from lora_s2s.serving.app import create_app
from lora_s2s.serving.models import load_models
from lora_s2s.serving.service import Limits, Service
from lora_s2s.tokens.special_tokens import SpecialTokenTemplate, SpecialTokenTemplates

ADAPTER = Path(__file__).parents[2] / "adapters" / "demo"
TEXTS = ["hi there'll be 4 of us, at 7pm. for Sat pls, my name's Lotte Winwick", "table for two"]


@pytest.fixture(scope="module")
def export(few: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "demo"
    lora_s2s.export(ADAPTER, "ct2", out, data=few, progress=False)
    return out


@pytest.fixture
def copied(export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(export, tmp_path / "copied"))


@pytest.mark.parametrize("num_beams", [1, 4])
def test_an_export_answers_as_its_adapter(export: Path, num_beams: int) -> None:
    adapter = lora_s2s.load(ADAPTER, overrides={"evaluation.early_stopping": True}, progress=False)
    exported = lora_s2s.load(export, progress=False)
    assert exported(TEXTS, num_beams=num_beams) == adapter(TEXTS, num_beams=num_beams)


@pytest.mark.parametrize(
    "asked",
    [
        {"no_repeat_ngram_size": 1},
        {"repetition_penalty": 3.0},
        {"num_beams": 4, "length_penalty": 3.0},
    ],
)
def test_penalties_have_the_same_effect(export: Path, asked: dict[str, Any]) -> None:
    adapter = lora_s2s.load(ADAPTER, progress=False)
    exported = lora_s2s.load(export, progress=False)
    asked = {"early_stopping": True if "num_beams" in asked else None, **asked}
    expected = adapter(TEXTS, **asked)
    assert exported(TEXTS, **asked) == expected


def test_several_answers_with_their_scores(export: Path) -> None:
    overrides = {"evaluation.early_stopping": True, "evaluation.num_beams": 4}
    one, other = (
        lora_s2s.load(name, overrides=overrides, progress=False)(TEXTS, n_best=3)
        for name in (ADAPTER, export)
    )
    for expected, answers in zip(one, other, strict=True):
        assert [answer["text"] for answer in answers] == [answer["text"] for answer in expected]
        scores = [answer["score"] for answer in expected]
        assert [answer["score"] for answer in answers] == pytest.approx(scores, abs=1e-2)


def test_an_export_scores_as_its_adapter(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = ["name: Lotte Winwick | people: 4", "people: 4", "name: Ana | people: 2"]
    exported = lora_s2s.load(export, progress=False)
    adapter = lora_s2s.load(ADAPTER, progress=False)
    pairs = zip(exported.score(TEXTS, candidates), adapter.score(TEXTS, candidates), strict=True)
    for one, other in pairs:
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-2)
        assert one.best == other.best
    # The end of mBART's targets is their language, which the runtimes do not put.
    side = SpecialTokenTemplate((), (1, 5))
    monkeypatch.setattr(
        scoring, "special_token_templates", lambda _: SpecialTokenTemplates(side, side)
    )
    with pytest.raises(UsageError, match="ct2 cannot score answers that end in their language"):
        exported.score(TEXTS, candidates)


def test_an_export_keeps_the_answer_limit_and_reports_a_cut_answer(export: Path) -> None:
    exported = lora_s2s.load(export, progress=False)
    short = exported(TEXTS[0], max_new_tokens=3)
    assert exported(TEXTS[0]).startswith(short)
    data = {"data": "demo:test", "limit": 4, "progress": False}
    cut = lora_s2s.evaluate(export, overrides={"evaluation.max_new_tokens": 3}, **data)
    assert cut.unstopped == 4
    assert lora_s2s.evaluate(export, **data).unstopped == 0


@pytest.mark.parametrize("exported", [False, True])
def test_greedy_answers_can_be_followed_and_ended(export: Path, exported: bool) -> None:
    predictor = load_predictor(str(export if exported else ADAPTER))
    engine, settings = predictor.engine, DecodingSettings(max_new_tokens=64)
    assert isinstance(engine, WatchedEngine)
    sources = [predictor.encode(text) for text in TEXTS]
    expected = engine.answers(sources, settings)
    assert all(len(ids) > 3 for ids in expected)
    seen: list[list[list[int]]] = [[], []]

    def watch(row: int, ids: list[int]) -> bool:
        seen[row].append([*ids])
        return row == 0 and len(ids) == 3

    assert engine.watched_answers(sources, settings, watch) == [expected[0][:3], expected[1]]
    for row, length in ((0, 3), (1, len(expected[1]))):
        assert seen[row] == [expected[row][:end] for end in range(1, length + 1)]


def test_an_export_is_served(export: Path) -> None:
    answers = lora_s2s.load(export, progress=False)(TEXTS)
    service = Service(load_models(named_models([f"fast={export}"])), Limits())
    with TestClient(create_app(service), base_url="http://localhost") as client:
        body = {"model": "fast", "prompt": TEXTS}
        choices = client.post("/v1/completions", json=body).json()["choices"]
        assert [choice["text"] for choice in choices] == answers
        streamed = client.post("/v1/completions", json={**body, "stream": True}).text
        parts = [json.loads(line[6:]) for line in streamed.split("\n\n")[:-2]]
        pieces = [part["choices"][0] for part in parts]
        for index, answer in enumerate(answers):
            own = [piece["text"] for piece in pieces if piece["index"] == index]
            assert "".join(own) == answer
            assert len(own) > 1
    with pytest.raises(UsageError, match="is an export, which takes no adapters"):
        load_models(named_models([f"fast={export}", str(ADAPTER)]))


def test_what_the_runtime_lacks_is_left_out_with_a_warning(
    few: str, here: Path, invoke: Invoke
) -> None:
    adapter = str(shutil.copytree(ADAPTER, here / "demo"))
    scored = {"evaluation.constraint": ["yes", "no"], "evaluation.temperature": 0.5}
    lora_s2s.evaluate(adapter, few, limit=1, overrides=scored, progress=False)
    said = invoke("export", adapter, "--out", "out", "--data", few).stderr
    line = "CTranslate2 has no evaluation.{}: the export answers without it; --format {}, or"
    assert line.format("constraint", "onnx or safetensors") in said
    assert line.format("temperature", "safetensors") in said

    free = lora_s2s.load(ADAPTER, progress=False)(TEXTS[0])
    assert invoke("predict", "out", TEXTS[0]).stdout.strip() == free
    app = create_app(Service(load_models(named_models(["out"])), Limits()))
    with TestClient(app, base_url="http://localhost") as client:
        body = {"model": "out", "prompt": TEXTS[0]}
        assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] == free
    asked = invoke("predict", "out", TEXTS[0], "--constraint", "[yes, no]", code=2).stderr
    assert "error: CTranslate2 has no evaluation.constraint" in asked
    on_ct2 = ("--engine", "ct2", "--data", few, "--constraint", "[yes, no]")
    also = ("--set", "evaluation.temperature=0.5", "--constraint=[a, b]")
    refused = invoke("eval", adapter, *on_ct2, *also, code=2).stderr
    assert "error: CTranslate2 has no evaluation.temperature" in refused
    without = "--set evaluation.temperature=0.0 --set evaluation.constraint=null"
    command = f"lora-s2s eval {adapter} {' '.join(on_ct2[:4])} {without}"
    assert f"hint: answer with the model itself; or without it: {command}\n" in refused
    assert "sources with the float32 model" not in refused  # before anything is exported
    for option in ("--baseline", "--set=evaluation.decoding=checkpoint"):
        refused = invoke("eval", adapter, *on_ct2[:4], option, code=2).stderr
        wrong = option.removeprefix("--set=")
        assert f"error: {wrong} is not for an export to ct2\nhint: omit --engine" in refused
        assert "sources with the float32 model" not in refused


def test_eval_exports_first_and_scores_the_same(tmp_path: Path) -> None:
    data = {"data": write_bookings(tmp_path / "some.csv", 12), "progress": False}
    adapter = shutil.copytree(ADAPTER, tmp_path / "demo")  # it keeps its scores
    on_torch = lora_s2s.evaluate(adapter, engine="torch", **data)
    on_ct2 = lora_s2s.evaluate(adapter, engine="ct2", **data)
    assert on_ct2.metrics == on_torch.metrics
    assert on_ct2.rows == on_torch.rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "ctranslate"}, "unknown engine 'ctranslate'"),
        ({"engine": "torch"}, "was exported for ct2, so torch cannot run it"),
        ({"baseline": True}, "is a whole model"),
        ({"base": "demo"}, "is not an adapter"),
        ({"overrides": {"model.dtype": "float16"}}, "was exported in float32"),
        (
            {"overrides": {"evaluation.early_stopping": False, "evaluation.num_beams": 2}},
            "ends a beam search as soon as it has as many answers as beams",
        ),
        (
            {"overrides": {"evaluation.temperature": 0.5}},
            "CTranslate2 has no evaluation.temperature",
        ),
        ({"overrides": {"evaluation.mbr": "chrf"}}, "CTranslate2 has no evaluation.mbr"),
        ({"overrides": {"evaluation.decoding": "checkpoint"}}, "is an export without generation"),
    ],
)
def test_what_an_export_cannot_do_is_refused(
    export: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        lora_s2s.evaluate(export, "demo:test", limit=2, progress=False, **arguments)  # type: ignore[arg-type]
    assert message in caught.value.message


def test_an_export_is_not_exported_again(export: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is an export for another runtime"):
        lora_s2s.export(export, "ct2", tmp_path / "again", data="demo:test", progress=False)
    assert not list(tmp_path.iterdir())


def spoil_weights(folder: Path) -> None:
    path = folder / "model.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def drop_weights(folder: Path) -> None:
    (folder / "model.bin").unlink()


def hide_weights(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["files"]["model.bin"]
    path.write_text(json.dumps(manifest), "utf-8")


def other_runtime(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["export"]["format"] = "../evil"
    path.write_text(json.dumps(manifest), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, "the file differs from its hash"),
        (drop_weights, "the file is missing"),
        (hide_weights, "files lacks model.bin"),
        (other_runtime, "which this version does not run"),
    ],
)
def test_a_damaged_export_is_refused(copied: Path, spoil: object, message: str) -> None:
    spoil(copied)  # type: ignore[operator]
    with pytest.raises((DataError, UsageError)) as caught:
        lora_s2s.load(copied, progress=False)
    assert message in caught.value.message


def test_weights_that_the_runtime_refuses_end_in_one_line(copied: Path) -> None:
    (copied / "model.bin").write_bytes(b"\0" * 64)
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["files"]["model.bin"]
    manifest["files"]["model.bin"] = {
        "bytes": 64,
        "sha256": "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b",
    }
    path.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(DataError, match="CTranslate2 cannot load the model"):
        lora_s2s.load(copied, progress=False)
