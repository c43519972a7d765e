"""``adapters``: what a listing shows of folders from anywhere, and what is said of a folder that is
none.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Invoke

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 12,
    "target_modules": ["q", "v"],
    "base_model_name_or_path": "google/flan-t5-small",
    "alpha_pattern": {"wo": 7},
    "modules_to_save": None,
    "use_dora": False,
    "new": {"a": {"b": "[link](x)\u001b[2J"}},
}


def write(folder: Path, manifest: str | None = None, config: Any = CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    return folder


HUGE, VERY_HUGE, DEEP = "1" + "0" * 400, "1" + "0" * 5000, "[" * 300 + "]" * 300
BAD = [
    f'{{"training": {{"steps": {HUGE}}}}}',
    '{"training": {"steps": 1e999}}',
    "[1]",
    "{",
    '{"training": 7}',
    f'{{"scores": {{"x": {{"n": {HUGE}, "metrics": {{"chrf": {{"value": -{HUGE}}}}}}}}}}}',
    f'{{"base": {{"name": {DEEP}}}}}',
    f'{{"training": {{"steps": {VERY_HUGE}}}}}',
    "\ud800 latin",
    '{"a": NaN}',
]


def test_a_folder_that_may_not_be_read_does_not_take_the_list_away(
    invoke: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here / "adapters" / "good")
    write(here / "adapters" / "bad")

    def refuse(path: Path) -> None:
        if path.name == "bad":
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lora_s2s.pipeline.adapters.check_folder", refuse)
    told = invoke("adapters").stderr
    assert "bad is omitted: Permission denied" in told
    assert "good" in told


@pytest.mark.parametrize("manifest", BAD, ids=range(len(BAD)))
def test_one_bad_member_does_not_take_the_list_away(
    invoke: Invoke, here: Path, manifest: str
) -> None:
    write(here / "adapters" / "good", '{"base": {"name": "demo"}, "training": {"steps": 1234}}')
    (write(here / "adapters" / "bad") / "manifest.json").write_bytes(
        manifest.encode("utf-8", "surrogatepass")
    )
    told = invoke("adapters").stderr
    assert "good" in told
    assert "1,234" in told
    assert "bad" in told
    assert "good" in invoke("adapters", "--json").stdout
    assert "good" in invoke("adapters", "compare", "good", "bad", code=None).stderr + "good"
    assert invoke("adapters", "show", "bad", code=None).exit_code in (0, 3)


def test_configs_that_are_none_are_left_out(invoke: Invoke, here: Path) -> None:
    write(here / "adapters" / "good", "{}")
    write(here / "adapters" / "list", "{}", config=[1])
    (here / "adapters" / "fake" / "adapter_config.json").mkdir(parents=True)
    told = invoke("adapters").stderr
    assert "list is omitted" in told
    assert "good" in told


def test_an_adapter_from_elsewhere_shows_all_that_its_config_says(
    invoke: Invoke, here: Path
) -> None:
    write(here / "theirs")
    told = invoke("adapters", "show", "theirs").stderr
    for fact in (
        "peft type",
        "LORA",
        "12",
        "q, v",
        "flan-t5-small",
        "alpha pattern wo",
        "7",
        "use dora",
        "False",
    ):
        assert fact in told
    assert "\x1b[2J" not in told
    assert "modules to save" not in told
    assert json.loads(invoke("adapters", "show", "theirs", "--json").stdout)["config"] == CONFIG
    shutil.copytree("theirs", "adapters/other")
    (here / "adapters/other/adapter_config.json").write_text(json.dumps({**CONFIG, "r": 3}))
    assert "google/flan-t5-small" in invoke("adapters").stderr
    compared = [
        line.split()
        for line in invoke("adapters", "compare", "theirs", "other").stderr.splitlines()
    ]
    assert ["r", "12", "3"] in compared


@pytest.mark.parametrize(
    "verb",
    [
        ("predict", "out", "text"),
        ("eval", "out"),
        ("merge", "out", "--out", "whole"),
        ("adapters", "show", "out"),
    ],
    ids=lambda words: words[0],
)
def test_a_trainers_output_names_the_adapters_in_it(
    invoke: Invoke, here: Path, verb: tuple[str, ...]
) -> None:
    for name in ("checkpoint-500", "checkpoint-1000", "checkpoint-90"):
        write(here / "out" / name)
    told = invoke(*verb, code=3).stderr
    assert (
        "these folders in it are adapters: checkpoint-90, checkpoint-500, checkpoint-1000" in told
    )
    assert "hint: out/checkpoint-1000" in told


def test_a_folder_without_adapters_is_told_as_before(invoke: Invoke, here: Path) -> None:
    (here / "out" / "deep" / "deeper").mkdir(parents=True)
    assert "it has no adapter_config.json\n" in invoke("adapters", "show", "out", code=3).stderr
    assert "config.json" in invoke("predict", "out", "text", code=3).stderr
