"""``import lora_s2s``: what notebooks and programs use."""

from __future__ import annotations

import doctest
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_parts import Invoke, write_csv

import lora_s2s
from lora_s2s.display import Notebook
from lora_s2s.pipeline import api, api_prepare, python_hints, recipes
from lora_s2s.pipeline.prepare import PreparedData
from lora_s2s.pipeline.python_hints import in_python
from lora_s2s.pipeline.surroundings import LIBRARY_SETTINGS

HEAVY = ("torch", "transformers", "numpy", "pydantic", "rich", "typer", "pyarrow")


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which an adapter has been trained from Python."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_csv(folder / "train.csv")
        recipe = {
            "model": {"name": tiny_model},
            "data": {"train": "train.csv", "validation_fraction": 0.2},
            "training": {"max_steps": 2, "batch_size": 4},
            "evaluation.max_new_tokens": 6,
        }
        lora_s2s.train(recipe, progress=False)
    return folder


@pytest.fixture
def there(made: Path, here: Path) -> Path:
    """The current folder, with a copy of that adapter."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    return here


def fresh(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter, as a script without a ``__main__`` guard."""
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    inherited = {name: os.environ[name] for name in os.environ if name not in LIBRARY_SETTINGS}
    package = str(Path(lora_s2s.__file__).parents[1])
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**inherited, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_loads_nothing_heavy(here: Path) -> None:
    code = f"""
import sys, lora_s2s
assert set(lora_s2s.__all__) == set(dir(lora_s2s))
assert issubclass(lora_s2s.DataError, lora_s2s.Error)
lora_s2s.train, lora_s2s.load, lora_s2s.evaluate; import lora_s2s.pipeline.run_input
print(sorted(set({HEAVY}) & set(sys.modules)))
"""
    ended = fresh(re.sub("lora_s2s.train,.*\n", "", code), here)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
    # Preparing data needs a tokenizer, and nothing that adapts a model.
    prepares = "import lora_s2s.pipeline.prepare\nprint({'bitsandbytes', 'peft'} & {*sys.modules})"
    loaded, after_preparing = fresh(code + prepares, here).stdout.splitlines()
    assert "torch" not in loaded
    assert after_preparing == "set()"
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        lora_s2s.fit  # noqa: B018


@pytest.mark.slow
def test_a_program_without_progress_prints_nothing(there: Path) -> None:
    ended = fresh(
        """
import lora_s2s, os
before = dict(os.environ)
run = lora_s2s.train("adapters/train/recipe.yaml", overwrite=True, progress=False)
model = lora_s2s.load(run.adapter, progress=False)
assert isinstance(model("what is it"), str) and len(model(["a", "b"])) == 2
lora_s2s.evaluate(run.adapter, limit=3, baseline=True, progress=False)
assert dict(os.environ) == before
""",
        there,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "name", ["load_recipe", "prepare", "train", "evaluate", "load", "merge", "export"]
)
def test_every_function_has_an_example(name: str) -> None:
    assert ">>> import lora_s2s" in str(getattr(lora_s2s, name).__doc__)


def test_the_examples_run(here: Path) -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    examples = {
        test.name.rpartition(".")[2]: test
        for module in (api, api_prepare, recipes, lora_s2s)
        for test in finder.find(module, module.__name__)
    }
    for name in (
        "load_recipe",
        "prepare",
        "train",
        "evaluate",
        "load",
        "merge",
        "export",
        "lora_s2s",
    ):
        runner.run(examples[name])
    assert runner.failures == 0
    assert runner.tries > 20
    assert (here / "merged").is_dir()


def as_json(result: Any) -> Any:
    """What a result's dict is in JSON."""
    return json.loads(json.dumps(result.to_dict()))


def test_results_are_what_the_commands_print(there: Path, invoke: Invoke) -> None:
    recipe = "adapters/train/recipe.yaml"
    data = lora_s2s.prepare(recipe, progress=False)
    assert as_json(data) == json.loads(invoke("prepare", recipe, "--json").stdout)
    assert sum(data.splits.values()) == data.report["rows"]["kept"] == 40

    run = lora_s2s.train(recipe, resume=True, progress=False)
    assert as_json(run) == json.loads(invoke("train", recipe, "--resume", "--json").stdout)
    assert (run.adapter, run.steps) == (Path("adapters/train"), 2)
    assert as_json(run)["advice"] == []

    scores = lora_s2s.evaluate(run.adapter, limit=5, baseline=True, progress=False)
    words = ("eval", "train", "--limit", "5", "--baseline", "--json")
    printed = json.loads(invoke(*words).stdout)
    assert as_json(scores) == printed
    assert (
        list(scores.metrics["exact_match"].interval)
        == (printed["metrics"]["exact_match"]["interval"])
    )
    assert Path(str(scores.predictions)).is_file()

    report = lora_s2s.merge("train", "merged", progress=False)
    merged = json.loads(invoke("merge", "train", "--out", "again", "--json").stdout)
    assert {**as_json(report), "out": "again"} == merged


def test_what_init_returns_is_a_recipe(there: Path, tiny_model: Path) -> None:
    recipe = lora_s2s.init("train.csv", {"model.name": tiny_model}, out="r.yaml", progress=False)
    assert lora_s2s.load_recipe(recipe).data.train == "train.csv"
    assert sum(lora_s2s.prepare(recipe, progress=False).splits.values()) == 40


def test_prepared_data_trains(there: Path) -> None:
    data = lora_s2s.prepare("adapters/train/recipe.yaml", "data", progress=False)
    shutil.rmtree("adapters")
    assert lora_s2s.train(data, progress=False).adapter == Path("adapters/train")
    with pytest.raises(lora_s2s.UsageError, match="exists already"):
        lora_s2s.train("data", progress=False)


def test_settings_go_with_a_call(there: Path, tiny_model: Path) -> None:
    small = {"model.name": tiny_model, "training.max_steps": 1, "training.batch_size": 4}
    shutil.copyfile("train.csv", "my.csv")
    assert lora_s2s.train("my.csv", small, progress=False).steps == 1
    assert lora_s2s.load_recipe("my.yaml").model.name == str(tiny_model)
    recipe, sized = "adapters/train/recipe.yaml", {"data.max_source_tokens": 9}
    data = lora_s2s.prepare(recipe, "data", overrides=sized, progress=False)
    assert data.report["truncated"]["source"] > 0
    more = {"training": {"max_steps": 1}, "output.dir": there.parent / "elsewhere"}
    run = lora_s2s.train("data", more, progress=False)
    assert (run.steps, run.adapter) == (1, there.parent / "elsewhere" / "train")
    loaded = lora_s2s.load_recipe(recipe)
    for given in (recipe, loaded, loaded.model_dump()):
        named = {"output.name": "out-of-time"}
        lora_s2s.train(given, named, overwrite=True, stop_after=0.0, progress=False)
    assert Path("adapters/out-of-time.running").is_dir()
    with pytest.raises(lora_s2s.UsageError, match="max_source_tokens=8: data is prepared already"):
        lora_s2s.train("data", {"data.max_source_tokens": 8}, progress=False)
    with pytest.raises(lora_s2s.RecipeError, match=r"model\.nme"):
        lora_s2s.sweep(recipe, {"lora.r": [2, 4]}, overrides={"model.nme": 1}, progress=False)
    for call, first in ((lora_s2s.prepare, recipe), (lora_s2s.evaluate, "train")):
        with pytest.raises(lora_s2s.UsageError) as misplaced:
            call(first, sized, progress=False)  # type: ignore[operator]
        assert "overrides={" in str(misplaced.value.hint)
    for wrong in ("training.seed=1", 3):
        for call in (lora_s2s.train, lora_s2s.load, lora_s2s.init, lora_s2s.load_recipe):
            with pytest.raises(lora_s2s.UsageError, match=r"overrides: expected settings .* got "):
                call("my.csv", wrong)  # type: ignore[operator]
    one = lora_s2s.load("train", {"evaluation.max_new_tokens": 1}, progress=False)
    assert isinstance(one("a"), str)


def test_a_run_that_is_out_of_time_has_no_adapter(there: Path) -> None:
    run = lora_s2s.train(
        "adapters/train/recipe.yaml", overwrite=True, stop_after=0.0, progress=False
    )
    assert (run.adapter, run.stopped) == (None, "deadline")
    assert "Stopped before the end" in run._repr_html_()


def test_models_answer_in_the_form_they_are_asked(there: Path, tiny_model: Path) -> None:
    row = {"question": "what is the number of house 3 of the street", "id": 7}
    for name in ("train", str(tiny_model)):
        model = lora_s2s.load(name, progress=False)
        one = model("what is the number", num_beams=2, max_new_tokens=3)
        assert isinstance(one, str)
        several = ["what is the number", "house 2"]
        assert model(several, num_beams=2, max_new_tokens=3)[0] == one
        assert model([]) == []
        best = model(several, num_beams=2, n_best=2, max_new_tokens=3)
        assert best[0][0] == {"text": one, "score": best[0][0]["score"]}
        assert [len(answers) for answers in best] == [2, 2]
    answered = lora_s2s.load("train", progress=False)([row])
    assert answered == [{**row, "prediction": answered[0]["prediction"]}]
    assert model(several)[1] == model("house 2")


def test_failures_are_errors_with_a_hint(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(lora_s2s.RecipeError, match=r"overrides: .*training\.lr'") as raised:
        lora_s2s.load_recipe("demo", {"training.lr": 1, "data.train": {"a"}})
    assert "data.train: expected a value or a list, got set" in str(raised.value)
    rows = [{"question": "a", "answer": "b"}]
    for call in (lora_s2s.train, lora_s2s.prepare, lora_s2s.init):
        with pytest.raises(lora_s2s.UsageError, match="expected a path or a name, got") as given:
            call(rows, progress=False)  # type: ignore[operator]
        assert "write rows to a file" in str(given.value.hint)
    assert (raised.value.exit_code, bool(raised.value.hint)) == (2, True)
    with pytest.raises(lora_s2s.DataError, match=r"missing\.csv") as missing:
        lora_s2s.evaluate("train", "missing.csv", progress=False)
    assert missing.value.exit_code == 3
    with pytest.raises(lora_s2s.UsageError, match="exclude each other"):
        lora_s2s.train("demo", resume=True, overwrite=True)
    model = lora_s2s.load("train", progress=False)
    with pytest.raises(lora_s2s.DataError, match="question") as row:
        model([{"question": "a"}, {"text": "a"}])
    assert row.value.where == "item 2"
    with pytest.raises(lora_s2s.Error, match=r"nope\.json") as absent:
        model("a", constraint="json:nope.json")
    with pytest.raises(lora_s2s.UsageError, match=r"schema\.properties\.a\.enum\.0=nan"):
        model("a", constraint={"type": "object", "properties": {"a": {"enum": [math.nan]}}})
    if sys.version_info >= (3, 11):  # what a traceback shows below the message
        assert traceback.format_exception_only(row.value)[1] == "at: item 2\n"
        assert traceback.format_exception_only(absent.value)[1] == "hint: check the path\n"
    with pytest.raises(lora_s2s.UsageError, match="got int"):
        model([1])  # type: ignore[call-overload]
    with pytest.raises(lora_s2s.UsageError, match="got ndarray") as array:
        model(np.array(["a"]))
    assert "model(list(texts))" in str(array.value.hint)
    assert array.value.where is None
    with pytest.raises(lora_s2s.Error, match=r"^num_beams"):
        model("a", num_beams=0)

    def full(*_words: object, **_more: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lora_s2s.pipeline.shards.prepare_data", full)
    with pytest.raises(lora_s2s.Error, match="out of memory") as memory:
        lora_s2s.prepare("demo", progress=False)
    assert memory.value.exit_code == 4


def test_hints_name_arguments(there: Path) -> None:
    def hint(call: Callable[..., object], *words: object, **more: object) -> str | None:
        with pytest.raises(lora_s2s.Error) as raised:
            call(*words, **more, progress=False)
        return raised.value.hint

    recipe = "adapters/train/recipe.yaml"
    assert hint(lora_s2s.train, recipe) == (
        'give the new one a name with overrides={"output.name": "…"}; '
        "or replace it: the same call with overwrite=True"
    )
    lora_s2s.train(recipe, overwrite=True, stop_after=0.0, progress=False)
    shutil.rmtree("adapters/train")
    shutil.copyfile("adapters/train.running/recipe.yaml", "r.yaml")
    more = {"output.name": "train"}
    again = lora_s2s.load_recipe("r.yaml", more)
    assert hint(lora_s2s.train, again) == (
        "continue: the same call with resume=True; or start again: the same call with "
        "overwrite=True"
    )
    other = lora_s2s.load_recipe("r.yaml", {**more, "training.learning_rate": 0.5})
    assert str(hint(lora_s2s.train, other, resume=True)).endswith(
        "continue anyway: the same call with resume_anyway=True"
    )
    assert hint(lora_s2s.merge, "x", "y", onto="z") is not None


def test_options_in_hints_are_arguments_of_some_function() -> None:
    assert doctest.testmod(python_hints).failed == 0
    functions = (getattr(lora_s2s, name) for name in dir(lora_s2s) if name[0].islower())
    arguments = {name for function in functions for name in inspect.signature(function).parameters}
    flags = {flag.replace("-", "_") for flag in python_hints._FLAGS}
    assert flags < arguments
    translated = {
        "--onto original or dequantized": "onto=original or dequantized",
        "omit --base": "omit base",
        "give another folder: --out DIR": "give another folder: out=DIR",
        "then the same command with --resume": "then the same call with resume=True",
        "name both: --set 'data.train=[train.en, train.de]'": "name both: "
        'overrides={"data.train": ["train.en", "train.de"]}',
        "or try --set data.template='a: {text}', or": "or try "
        'overrides={"data.template": "a: {text}"}, or',
        "lora-s2s train --data FILE --model demo, or --data FILE": "lora-s2s train --data FILE "
        "--model demo, or data=FILE",
        "run again with --debug to see where": None,
    }
    assert {hint: in_python(hint) for hint in translated} == translated


def test_recipes_from_mappings(here: Path) -> None:
    recipe = lora_s2s.load_recipe(
        {"extends": "demo", "data": {"train": [here / "a.csv", "b.csv"], "template": " {x} "}},
        {"training": {"seed": 3, "gradient_checkpointing": True}, "lora.dropout": 1e-05},
    )
    assert recipe.data.train == [str(here / "a.csv"), "b.csv"]
    assert (recipe.data.template, recipe.training.seed, recipe.output.name) == (
        " {x} ",
        3,
        "demo",
    )
    assert (recipe.training.gradient_checkpointing, recipe.lora.dropout) == (True, 1e-05)
    assert lora_s2s.load_recipe("demo", {"data.template": "~"}).data.template == "~"
    rows = {"model.name": "demo", "data.train": [here / "my rows.csv.gz", "b.csv"]}
    assert lora_s2s.load_recipe(rows).output.name == "my-rows"
    assert lora_s2s.load_recipe(recipe) == recipe
    again = lora_s2s.load_recipe(recipe, {"training.max_steps": 5, "data.template": None})
    assert (again.training.max_steps, again.training.seed, again.data.template) == (5, 3, None)


class Kept:
    """A display that keeps what is shown."""

    seconds = 0.0

    def __init__(self) -> None:
        self.shown: list[str] = []

    def message(self, text: str) -> None:
        self.shown.append(text)

    def progress(self, text: str) -> None:
        self.shown.append(text)

    def end(self) -> None:
        self.shown.append("end")


def test_progress_goes_to_a_display_unless_the_work_is_short(
    there: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    display = Kept()
    model = lora_s2s.load("train", progress=display)
    model(["a", "b"])
    model.score(["a", "b"], ["yes", "no"])
    assert not [line for line in display.shown if "2/2" in line]
    monkeypatch.setattr("lora_s2s.console._SECONDS_OF_SILENCE", 0.0)
    model(["a", "b"])
    assert display.shown[0] == "train is the adapter in adapters/train"
    assert "predict 100% 2/2  " in display.shown
    assert "end" in display.shown
    assert capfd.readouterr() == ("", "")
    lora_s2s.load("train")
    assert "train is the adapter" in capfd.readouterr().err


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook's cell shows; IPython is not installed here."""
    shown: list[str] = []
    handle = types.SimpleNamespace(update=lambda page: shown.__setitem__(-1, page))
    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace(kernel=None)  # type: ignore[attr-defined]
    display = types.ModuleType("IPython.display")
    display.HTML = str  # type: ignore[attr-defined]
    display.display = lambda page, display_id: (shown.append(page), handle)[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def test_a_notebook_shows_progress_in_one_output(
    there: Path,
    cell: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lora_s2s.console._SECONDS_OF_SILENCE", 0.0)
    model = lora_s2s.load("train")
    assert len(cell) == 1
    assert "train is the adapter in adapters/train" in cell[0]
    model(["a", "b"])
    assert "predict 100% 2/2" in cell[-1]
    Notebook().message("<b>")
    assert "&lt;b&gt;" in cell[-1]
    assert capfd.readouterr() == ("", "")


def test_results_show_themselves_escaped(there: Path) -> None:
    data = lora_s2s.prepare("adapters/train/recipe.yaml", progress=False)
    assert "Tokens per row" in data._repr_html_()
    report = {**data.report, "warnings": ["<script>alert(1)</script>"]}
    pair = {"text": "<img src=x>", "pieces": [], "tokens": 1}
    spoilt = PreparedData(data.path, report, [{"source": pair, "target": pair}])  # type: ignore[typeddict-item]
    page = spoilt._repr_html_()
    assert not re.search("<script|<img", page)
    assert "&lt;script&gt;" in page
    assert "&lt;img src=x&gt;" in page

    run = lora_s2s.train("adapters/train/recipe.yaml", resume=True, progress=False)
    assert "data:image/png;base64,iVBOR" in run._repr_html_()
    scores = lora_s2s.evaluate("train", baseline=True, limit=3, progress=False)
    page = scores._repr_html_()
    assert "exact_match" in page
    assert "difference [95 %]" in page
    compared = r"exact_match [0-9.]+ \(base [0-9.]+, difference \+[0-9.]+ \[.*\]\)"
    assert re.fullmatch(rf"Scores\(.*{compared}.*; n=3\)", repr(scores), re.DOTALL)
    alone = replace(scores, baseline=None, difference=None)
    assert re.fullmatch(r"Scores\([a-z_0-9A-Z ,.]+; n=3\)", repr(alone))
    report = lora_s2s.merge("train", "<b>", progress=False)
    assert "Merged model: &lt;b&gt;" in report._repr_html_()
