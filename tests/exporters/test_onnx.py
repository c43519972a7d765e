"""ONNX exports: onnxruntime alone answers as transformers does, and faults that the comparison
finds.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from onnx import TensorProto, helper
from programs import ROOT, environment
from tiny_families import TINY, write

import lora_s2s
from lora_s2s.errors import DataError, RunError, SetupError
from lora_s2s.exporters import onnx, parity
from lora_s2s.exporters.exporter import Job, Usage
from lora_s2s.inference.engine import DecodingSettings, ExportedEngine
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.onnx_engine import OnnxEngine
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.names import named_models
from lora_s2s.serving.app import create_app
from lora_s2s.serving.models import load_models
from lora_s2s.serving.service import Limits, Service

pytestmark = pytest.mark.slow  # an export takes 10 s
ADAPTER = ROOT / "adapters" / "demo"
TEXT = "hi there'll be 4 of us, at 7pm. for Sat pls, my name's Lotte Winwick"
FLAN = "T5 v1.1, LM-adapted, Flan-T5"
DECODING = {"max_new_tokens": 12, "num_beams": 1}


def texts(count: int) -> list[str]:
    words = random.Random(0)
    return [
        " ".join(f"w{words.randint(4, 90)}" for _ in range(words.randint(1, 12)))
        for _ in range(count)
    ]


def exported(name: str, folder: Path, precision: str = "float32") -> Predictor:
    write(TINY[name], folder / "model")
    (folder / "out").mkdir()
    onnx.EXPORTER.write(Job(str(folder / "model"), precision, DECODING), folder / "out")
    return load_predictor(str(folder / "model"), dtype="float32", device="cpu")


def checked(predictor: Predictor, engine: ExportedEngine, count: int = 40) -> Any:
    sources = [predictor.encode(text) for text in texts(count)]
    expected = parity.expect(parity.Reference(predictor), sources, max_new_tokens=12)
    measured = parity.compare(expected, engine)
    parity.check(measured, expected.reference, engine, "float32")
    return measured


@pytest.fixture(scope="module")
def flan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Predictor, Path]:
    """A tiny Flan-T5 and its export."""
    folder = tmp_path_factory.mktemp("flan")
    return exported(FLAN, folder), folder / "out"


@pytest.fixture(scope="module")
def engine(flan: tuple[Predictor, Path]) -> OnnxEngine:
    return onnx.engine(*flan, "float32", threads=1)


WITHOUT_TORCH = """
import json, sys
from pathlib import Path
sys.modules["torch"] = sys.modules["transformers"] = None
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.onnx_engine import OnnxEngine

folder, sources = Path(sys.argv[1]), json.load(sys.stdin)
files = (folder / "encoder_model.onnx", folder / "decoder_model_merged.onnx")
engine = OnnxEngine(files, [], start=0, end=1, pad=0, threads=1)
json.dump(engine.answers(sources, DecodingSettings(12)), sys.stdout)
"""


def test_onnxruntime_without_torch_gives_equal_answers(flan: tuple[Predictor, Path]) -> None:
    predictor, out = flan
    sources = [predictor.encode(text) for text in texts(200)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(out / "onnx")],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == predictor.engine.answers(sources, DecodingSettings(12))


def test_names_are_those_that_other_runtimes_expect(
    flan: tuple[Predictor, Path], engine: OnnxEngine
) -> None:
    encoder, decoder = engine._sessions
    assert [given.name for given in encoder.get_inputs()] == ["input_ids", "attention_mask"]
    assert [output.name for output in encoder.get_outputs()] == ["last_hidden_state"]
    inputs = {given.name: given.shape for given in decoder.get_inputs()}
    key = inputs["past_key_values.1.encoder.key"]
    assert key == ["batch_size", 4, "past_encoder_sequence_length", 32]
    assert set(inputs) == {
        "input_ids",
        "encoder_attention_mask",
        "encoder_hidden_states",
        *(f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in onnx._PARTS),
    }
    outputs = [output.name for output in decoder.get_outputs()]
    assert outputs[0] == "logits"
    assert outputs[1:] == [f"present.{layer}.{part}" for layer in (0, 1) for part in onnx._PARTS]
    _, out = flan
    rest = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert rest <= {path.name for path in out.iterdir()}


def test_the_comparison_passes(flan: tuple[Predictor, Path], engine: OnnxEngine) -> None:
    measured = checked(flan[0], engine)
    assert measured.max_log_prob_difference < 1e-4
    assert (measured.greedy_equal, measured.beam_equal) == (1.0, 1.0)


def test_beam_search_gives_what_transformers_gives(
    flan: tuple[Predictor, Path], engine: OnnxEngine
) -> None:
    predictor, _ = flan
    sources = [predictor.encode(text) for text in texts(40)]
    # A random model hardly ever gives </s>: another token ends answers here.
    second = Counter(answer[1] for answer in engine.answers(sources, DecodingSettings(3)))
    end = second.most_common(1)[0][0]
    tokenizer = copy.deepcopy(predictor.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    model = replace(predictor.torch, tokenizer=tokenizer)
    export = OnnxEngine(engine.files, (), start=0, end=end, pad=0, threads=1)
    answers = {}
    for early, beams, most in itertools.product((True, False), (2, 5), (1, 12)):
        settings = DecodingSettings(most, num_beams=beams, early_stopping=early, n_best=2)
        answers[early, beams, most] = export.answers(sources, settings)
        assert answers[early, beams, most] == model.answers(sources, settings)
    assert answers[True, 5, 12] != answers[False, 5, 12]


def test_what_answers_begin_with_and_never_hold(
    flan: tuple[Predictor, Path], engine: OnnxEngine
) -> None:
    predictor, _ = flan
    sources = [predictor.encode(text) for text in texts(6)]
    plain = engine.answers(sources, DecodingSettings(6))
    often = plain[0][1]
    files = engine.files
    for beams in (1, 3):
        settings = DecodingSettings(6, num_beams=beams, early_stopping=True)
        never = [[often], [9, plain[1][1]]]
        bound = OnnxEngine(files, (), start=0, end=1, pad=0, prefix=(9,), never=never, threads=1)
        model: Any = predictor.torch.model
        generation = copy.deepcopy(model.generation_config)
        try:
            model.generation_config.forced_bos_token_id = 9
            model.generation_config.bad_words_ids = never
            expected = predictor.engine.answers(sources, settings)
        finally:
            model.generation_config = generation
        answers = bound.answers(sources, settings)
        assert answers == expected
        assert all(answer[0] == 9 and often not in answer for answer in answers)
    assert bound.answers(sources, DecodingSettings(1)) == [[9]] * 6


def test_greedy_answers_are_followed_and_ended_early(
    flan: tuple[Predictor, Path], engine: OnnxEngine
) -> None:
    sources = [flan[0].encode(text) for text in texts(5)]
    whole, seen = engine.answers(sources, DecodingSettings(8)), []

    def watch(place: int, ids: list[int]) -> bool:
        seen.append((place, list(ids)))
        return place == 2 and len(ids) == 3

    answers = engine.watched_answers(sources, DecodingSettings(8), watch)
    assert answers == [*whole[:2], whole[2][:3], *whole[3:]]
    assert [ids for place, ids in seen if place == 4] == [
        whole[4][:length] for length in range(1, len(whole[4]) + 1)
    ]


def refusal(predictor: Predictor, engine: ExportedEngine) -> str:
    with pytest.raises(RunError) as caught:
        checked(predictor, engine)
    return caught.value.message


def test_exchanged_rows_and_a_wrong_scale_are_refused(
    flan: tuple[Predictor, Path], engine: OnnxEngine
) -> None:
    for spoil in ("rows", "scale"):
        wrong = copy.deepcopy(flan[0])
        model: Any = wrong.torch.model
        with torch.no_grad():
            if spoil == "rows":
                rows = model.get_input_embeddings().weight
                rows[[20, 21]] = rows[[21, 20]].clone()
            else:
                model.lm_head.weight.mul_(8)
        assert "differ" in refusal(wrong, engine)


def test_a_token_that_was_dropped_is_refused(
    flan: tuple[Predictor, Path], engine: OnnxEngine
) -> None:
    shorter = copy.copy(engine)
    object.__setattr__(shorter, "tokens", engine.vocabulary()[:-1])
    assert refusal(flan[0], shorter) == "the export reads token 95 as None, not 'w95'"


def loop(text: str) -> str:
    """The Python block of a page that runs onnxruntime."""
    return next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "ort" in block)


def test_the_loop_of_the_docs_answers_with_three_libraries(flan: tuple[Predictor, Path]) -> None:
    predictor, out = flan
    code = loop((ROOT / "docs" / "EXPORT.md").read_text("utf-8"))
    assert code == onnx.EXPORTER.example(Usage((), 128, 1, "float32"))
    text = texts(3)[2]
    code = code.replace("FOLDER", str(out)).replace("your text", text)
    blocked = "import sys\nfor name in ('torch', 'transformers', 'lora_s2s'):\n"
    blocked += "    sys.modules[name] = None\n"
    command = [sys.executable, "-c", blocked + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    (ids,) = predictor.engine.answers([predictor.encode(text)], DecodingSettings(12))
    assert done.stdout.strip() == predictor.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def small(few: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo adapter in 8 bits."""
    folder = tmp_path_factory.mktemp("small")
    report = lora_s2s.export(
        ADAPTER, "onnx", folder / "out", precision="int8", data=few, progress=False
    )
    assert (report.format, report.precision) == ("onnx", "int8")
    assert report.parity.mean_log_prob_difference > 1e-6  # it is not the float32 one
    return folder / "out"


def test_8_bits_are_named_as_transformers_js_expects(small: Path) -> None:
    assert sorted(path.name for path in (small / "onnx").iterdir()) == [
        "decoder_model_merged_quantized.onnx",
        "encoder_model_quantized.onnx",
    ]
    readme = (small / "README.md").read_text("utf-8")
    assert "decoder_model_merged_quantized.onnx" in readme
    answer = lora_s2s.load(small, progress=False)(TEXT, num_beams=2)
    assert answer.startswith("name: Lotte Winwick | people: 4 | day: Saturday | time: 19:00")


def test_it_is_served_whole_and_in_parts(small: Path) -> None:
    service = Service(load_models(named_models([f"fast={small}"])), Limits())
    with TestClient(create_app(service), base_url="http://localhost") as client:
        asked = {"model": "fast", "prompt": TEXT}
        whole = client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
        streamed = client.post("/v1/completions", json={**asked, "stream": True}).text
    events = [json.loads(event[6:]) for event in streamed.split("\n\n")[:-2]]
    parts = [choice["text"] for event in events for choice in event["choices"]]
    assert "".join(parts) == whole == lora_s2s.load(small, progress=False)(TEXT)
    assert len(parts) > 1


def test_no_path_of_this_machine_is_written(flan: tuple[Predictor, Path], small: Path) -> None:
    for folder in (flan[1], small):
        for path in folder.rglob("*.*"):
            content = path.read_bytes()
            for place in (str(ROOT), "site-packages", torch.__file__.rpartition("/")[0]):
                assert place.encode() not in content, path


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def linked(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere.onnx")
    path.symlink_to(path.parents[2] / "elsewhere.onnx")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, "differs from its hash"),
        (Path.unlink, "the file is missing"),
        (linked, "is a link that leads out of its folder"),
    ],
)
def test_a_spoilt_folder_is_refused(spoil: Any, message: str, small: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(small, copied)
    spoil(copied / "onnx" / "encoder_model_quantized.onnx")
    with pytest.raises(DataError) as caught:
        lora_s2s.load(copied, progress=False)
    assert message in caught.value.message


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/passwd", "encoder_model.onnx_data2"])
def test_weights_are_read_from_the_file_beside_alone(place: str, tmp_path: Path) -> None:
    path = tmp_path / "encoder_model.onnx"
    weight = TensorProto(name="w", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    entry = weight.external_data.add()
    entry.key, entry.value = "location", place
    graph = helper.make_graph([], "g", [], [], [weight])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(DataError, match="takes weights from another file"):
        OnnxEngine((path, path), (), start=0, end=1, pad=0)


def test_what_onnxruntime_refuses_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "encoder_model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(DataError, match="onnxruntime cannot load the model"):
        OnnxEngine((path, path), (), start=0, end=1, pad=0)


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_without_the_extra_the_install_command_is_given(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SetupError) as caught:
        lora_s2s.export("demo", "onnx", tmp_path / "out", progress=False)
    assert caught.value.hint == "pip install 'lora-s2s[onnx]'"
    assert not list(tmp_path.iterdir())
