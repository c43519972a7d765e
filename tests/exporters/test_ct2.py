"""CTranslate2 exports: the same log-probabilities and answers as transformers, family by family,
and faults that the comparison finds.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ctranslate2
import pytest
import torch
from cli_parts import Invoke
from tiny_families import BART_SIZES, TINY, Tiny, write
from transformers import AutoTokenizer

import lora_s2s
from lora_s2s.errors import RunError, SetupError, UsageError
from lora_s2s.exporters import ct2, parity
from lora_s2s.inference.engine import ExportedEngine
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline import export

ADAPTER = Path(__file__).parents[2] / "adapters" / "demo"

MARIAN = Tiny(
    "marian",
    "MarianMTModel",
    {
        **BART_SIZES,
        "pad_token_id": 95,
        "eos_token_id": 0,
        "bos_token_id": None,
        "decoder_start_token_id": 95,
    },
    marks={"</s>": 0, "<unk>": 1, "<s>": 2, "<pad>": 95},
)
FAMILIES = {name: tiny for name, tiny in TINY.items() if tiny.family in ct2.EXPECTED_SETTINGS}
FAMILIES = {**FAMILIES, "Marian": MARIAN}
# CTranslate2 has one vocabulary a side and no cap on logits: both are refused by the comparison.
del FAMILIES["Marian (two vocabularies)"], FAMILIES["T5Gemma"]
FLAN = FAMILIES["T5 v1.1, LM-adapted, Flan-T5"]


def sources(predictor: Predictor, count: int = 40) -> list[list[int]]:
    words = random.Random(0)
    texts = [
        " ".join(f"w{words.randint(4, 90)}" for _ in range(words.randint(2, 12)))
        for _ in range(count)
    ]
    return [predictor.encode(text) for text in texts]


def exported(tiny: Tiny, folder: Path, precision: str = "float32") -> tuple[Predictor, Any]:
    write(tiny, folder / "model")
    predictor = load_predictor(str(folder / "model"), dtype="float32", device="cpu")
    if tiny is MARIAN:  # as its checkpoints say
        predictor.torch.model.generation_config.bad_words_ids = [[95]]  # type: ignore[union-attr]
    ct2.convert(copy.deepcopy(predictor), folder / "model", folder / "ct2", precision)
    return predictor, ct2.engine_of(predictor, folder / "ct2", threads=1)


@pytest.mark.parametrize("count", [16, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_answers_as_in_transformers(
    name: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another answer counts as equal only where the model itself scores both the same.
    monkeypatch.setattr(parity, "_TIE", 1e-5)
    predictor, engine = exported(FAMILIES[name], tmp_path)
    reference = parity.Reference(predictor)
    measured = compared(predictor, engine, count)
    parity.check(measured, reference, engine, "float32")
    assert measured.max_log_prob_difference < 1e-4
    assert (measured.greedy_equal, measured.beam_equal) == (1.0, 1.0)


def compared(predictor: Predictor, engine: ExportedEngine, count: int = 40) -> parity.Parity:
    reference = parity.Reference(predictor)
    expected = parity.expect(reference, sources(predictor, count), max_new_tokens=12)
    return parity.compare(expected, engine)


def refusal(predictor: Predictor, engine: parity.Engine) -> str:
    measured = compared(predictor, engine)
    with pytest.raises(RunError) as caught:
        parity.check(measured, parity.Reference(predictor), engine, "float32")
    return caught.value.message


def test_the_stock_converter_scales_flan_and_is_refused(tmp_path: Path) -> None:
    write(FLAN, tmp_path / "model")
    predictor = load_predictor(str(tmp_path / "model"), dtype="float32", device="cpu")
    converter = ctranslate2.converters.TransformersConverter(str(tmp_path / "model"))
    converter.convert(str(tmp_path / "ct2"))
    engine = ct2.engine_of(predictor, tmp_path / "ct2", threads=1)
    assert "largest log-probability difference" in refusal(predictor, engine)


def test_exchanged_embeddings_are_refused(tmp_path: Path) -> None:
    write(FLAN, tmp_path / "model")
    predictor = load_predictor(str(tmp_path / "model"), dtype="float32", device="cpu")
    wrong = copy.deepcopy(predictor)
    embeddings: Any = wrong.torch.model.get_input_embeddings()  # type: ignore[operator]
    with torch.no_grad():
        embeddings.weight[[20, 21]] = embeddings.weight[[21, 20]].clone()
    ct2.convert(wrong, tmp_path / "model", tmp_path / "ct2", "float32")
    assert "differ" in refusal(predictor, ct2.engine_of(predictor, tmp_path / "ct2", threads=1))


def test_a_token_that_was_dropped_is_refused(tmp_path: Path) -> None:
    predictor, _ = exported(FLAN, tmp_path)
    path = tmp_path / "ct2" / "shared_vocabulary.json"
    tokens = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps([*tokens[:-1], "<unused>"]), "utf-8")
    message = refusal(predictor, ct2.engine_of(predictor, tmp_path / "ct2", threads=1))
    assert message == "the export reads token 95 as '<unused>', not 'w95'"


def test_the_demo_adapter_in_int8_answers_in_plain_ctranslate2(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_SOURCES", 16)  # of what it was scored on: 64 take seconds
    out = tmp_path / "demo-int8"
    done = invoke("export", str(ADAPTER), "--out", str(out), "--precision", "int8", "--json")
    report = json.loads(done.stdout)
    assert (report["out"], report["format"], report["precision"]) == (str(out), "ct2", "int8")
    assert report["bytes"] < 6 * 2**20
    assert report["parity"]["greedy_equal"] >= 0.9
    assert "equal answers" in done.stderr
    assert not list(tmp_path.glob(".*"))

    # As the README of the folder says, without this package.
    tokenizer = AutoTokenizer.from_pretrained(out)
    translator = ctranslate2.Translator(str(out), intra_threads=1)
    message = "hi there'll be 4 of us, at 7pm. for Sat pls, my name's Lotte Winwick"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(message).input_ids)
    answer = translator.translate_batch([tokens], beam_size=1, min_decoding_length=0)[0]
    ids = tokenizer.convert_tokens_to_ids(answer.hypotheses[0])
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.startswith("name: Lotte Winwick | people: 4 | day: Saturday | time: 19:00")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--format", "ct3"], "unknown format 'ct3'", "--format ct2"),
        (["--precision", "int4"], "ct2 has no precision 'int4'", "--precision float32"),
        (["--out", str(Path(__file__).parent)], "exists already", "choose another folder"),
    ],
)
def test_wrong_choices(
    words: list[str], message: str, hint: str, invoke: Invoke, tmp_path: Path
) -> None:
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    done = invoke("export", str(ADAPTER), *out, *words, code=2)
    assert message in done.stderr
    assert f"hint: {hint}" in done.stderr
    assert not list(tmp_path.iterdir())


def test_from_python_it_shows_itself(few: str, tmp_path: Path) -> None:
    report = lora_s2s.export(ADAPTER, "ct2", tmp_path / "demo", data=few, progress=False)
    assert (report.precision, report.parity.beam_equal) == ("float32", 1.0)
    assert "ct2 in float32" in report._repr_html_()
    assert report.to_dict()["parity"]["greedy_equal"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "ct2", "x"), "model: expected a path or a name, got NoneType"),
        (("demo", "ct2", None), "out: expected a path or a name, got NoneType"),
        (("demo", "ct2", ""), "out is empty"),
        (("demo", None, "x"), "unknown format 'None'"),
        ((ADAPTER, "ct2", ADAPTER / "ct2"), "is inside the model's folder"),
        ((ADAPTER, "ct2", Path(__file__) / "x"), "cannot write into"),
    ],
)
def test_wrong_arguments_from_python(arguments: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        lora_s2s.export(*arguments, progress=False)
    assert message in caught.value.message


def test_without_the_extra_the_install_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(SetupError) as caught:
        export.export_model(str(ADAPTER), tmp_path / "out")
    assert caught.value.hint == "pip install 'lora-s2s[ct2]'"
    assert not list(tmp_path.iterdir())


def test_the_readme_names_the_language_that_answers_begin_with(few: str, tmp_path: Path) -> None:
    folder = write(FAMILIES["BART"], tmp_path / "model")
    model: Any = load_predictor(str(folder), device="cpu").torch.model
    assert model.generation_config.forced_bos_token_id == 0  # <s>
    lora_s2s.export(folder, "ct2", tmp_path / "out", data=few, progress=False)
    readme = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "    target_prefix=[['<s>']],\n    beam_size=1,\n" in readme


def test_an_export_may_have_the_name_of_the_bundled_base(
    few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = lora_s2s.export("demo", "ct2", "demo", data=few, progress=False)
    assert (tmp_path / "demo" / "model.bin").is_file()
    assert report.parity.greedy_equal == 1.0


def test_a_family_that_it_lacks_is_refused_by_the_conversion_itself(tmp_path: Path) -> None:
    config = SimpleNamespace(model_type="blenderbot-small")
    predictor: Any = SimpleNamespace(torch=SimpleNamespace(model=SimpleNamespace(config=config)))
    with pytest.raises(UsageError, match="does not support models of type 'blenderbot-small'"):
        ct2.convert(predictor, tmp_path, tmp_path / "out", "float32")
