"""Manifests, logs and predictions of another shape: shown as far as they can be, or refused in one
message.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Invoke, write_csv
from odd_shapes import spoilt

from lora_s2s.commands._show import show_adapter, show_prepared
from lora_s2s.console import write_json
from lora_s2s.data.prepared import open_prepared
from lora_s2s.errors import DataError, Error
from lora_s2s.files import read_json
from lora_s2s.pipeline.adapters import differences, find_adapter, list_adapters
from lora_s2s.pipeline.lengths import warn_of_short_answers, with_lengths
from lora_s2s.pipeline.prepare import data_line
from lora_s2s.recipe.load import load_recipe
from lora_s2s.reports.adapter_page import render_report
from lora_s2s.reports.card import write_card
from lora_s2s.reports.plots import loss_curve
from lora_s2s.reports.samples import newest_predictions, sample_of

BUNDLED = Path(__file__).parents[2] / "adapters" / "demo"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A copy of the bundled adapter without its weights."""
    ignored = shutil.ignore_patterns("*.safetensors", "*.png", "*.html", "tokenizer*")
    return shutil.copytree(BUNDLED, tmp_path / "demo", ignore=ignored)


def manifest_of(adapter: Path) -> dict[str, Any]:
    """Its manifest with one of each kind of entry."""
    manifest: dict[str, Any] = json.loads((adapter / "manifest.json").read_text())
    for section in ("versions", "data", "counts", "files"):
        manifest.pop(section, None)
    manifest["training"] = {"steps": 3, "stopped": None}
    (scores,) = manifest["scores"].values()
    for side in ("metrics", "baseline", "difference"):
        scores[side] = {"rougeL": scores[side]["rougeL"]}
    return manifest


def each_is_told(path: Path, document: Any, use: Callable[[], object]) -> int:
    """Writes every spoilt form and uses it; returns how many were refused."""
    refused = 0
    for what, changed in spoilt(document, (None, "x", [1], 10**299)):
        path.write_text(json.dumps(changed) + "\n", encoding="utf-8")
        try:
            use()
        except Error:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{path.name}: {what}") from error
    return refused


@pytest.mark.slow
def test_adapters_are_listed_shown_and_compared(adapter: Path) -> None:
    path = adapter / "manifest.json"

    def use() -> None:
        info = find_adapter(str(adapter), adapter.parent)
        info.row()
        show_adapter(info)
        differences(info, info)
        write_json(info.to_json())
        assert len(list_adapters(adapter.parent)) == 1

    assert each_is_told(path, manifest_of(adapter), use) < 10


@pytest.mark.slow
def test_reports_and_cards_are_written(adapter: Path) -> None:
    path, predictions = adapter / "manifest.json", newest_predictions(adapter)
    assert predictions
    answers = sample_of(predictions, 20)

    def use() -> None:
        write_card(adapter)
        render_report("demo", read_json(path), answers=answers)

    each_is_told(path, manifest_of(adapter), use)
    path.write_text((BUNDLED / "manifest.json").read_text())
    row = json.loads(predictions.read_text().splitlines()[0])

    def show() -> None:
        render_report("demo", {}, answers=sample_of(predictions, 20))

    each_is_told(predictions, row, show)


def test_curves_are_drawn(adapter: Path, tmp_path: Path) -> None:
    log = adapter / "metrics.jsonl"
    row = {
        key: value
        for key, value in json.loads(log.read_text().splitlines()[0]).items()
        if key in ("step", "loss")
    }
    each_is_told(log, row, lambda: loss_curve(log, tmp_path / "curve.png"))
    log.write_text(
        '{"step": 1e308, "loss": 1}\n{"step": 1, "loss": -1e308}\n{"step": 2, "loss": NaN}\n'
    )
    loss_curve(log, tmp_path / "curve.png")


def test_prepared_data_is_shown_or_refused(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    data = write_csv(here / "good.csv", rows=30)
    invoke(
        "prepare",
        "--data",
        data,
        "--model",
        str(tiny_model),
        "--out",
        "prepared",
        "--previews",
        "1",
    )
    path = here / "prepared" / "manifest.json"
    document = json.loads(path.read_text())
    # What the page alone shows was written with it.
    for key in ("histogram", "longer_than", "suggested", "characters", "classes"):
        document["report"].pop(key, None)
    for key in ("files", "identity", "input"):
        kept = (
            "train.arrow",
            "carried",
            "max_source_tokens",
            "max_target_tokens",
            "special_tokens",
        )
        document[key] = {name: document[key][name] for name in document[key] if name in kept}

    recipe = load_recipe("demo", [])

    def use() -> None:
        opened = open_prepared(here / "prepared")
        data_line(opened)
        show_prepared(opened.manifest.report, opened.preview)
        warn_of_short_answers(recipe, opened)
        assert with_lengths(recipe, opened).data.max_source_tokens > 0

    assert each_is_told(path, document, use) > 50


@pytest.mark.parametrize(
    "text",
    ["[1]", "1" + "0" * 400, "[" * 200 + "]" * 200, "null", '"x"', '{"a": 1', "\ufeff[]", ""],
)
def test_a_whole_document_of_another_kind_is_one_refusal(
    adapter: Path, invoke: Invoke, text: str
) -> None:
    (adapter / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError):
        find_adapter(str(adapter), adapter.parent)
    result = invoke("adapters", "show", str(adapter), code=3)
    assert "manifest.json" in result.stderr
    assert "unforeseen" not in result.stderr


def test_nan_in_a_manifest_is_null_again(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((adapter / "manifest.json").read_text())
    manifest["training"]["train_loss"] = float("nan")
    (adapter / "manifest.json").write_text(json.dumps(manifest))
    assert "NaN" in (adapter / "manifest.json").read_text()
    capsys.readouterr()
    with suppress(SystemExit):
        write_json(find_adapter(str(adapter), adapter.parent).to_json())
    shown = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert shown["manifest"]["training"]["train_loss"] is None
