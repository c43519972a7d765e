"""SECURITY.md states every bound of ``limits.py``, and the number that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lora_s2s import limits
from lora_s2s.hub import check_folder
from lora_s2s.readers.streams import COMPRESSED

SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| `(\w+)`(?: `([\w.]+)`)? \|$", flags=re.MULTILINE)
BYTES = {"bytes": 1, "KiB": limits.KIB, "MiB": limits.MIB, "GiB": limits.GIB}


def stated() -> dict[str, str]:
    table = SECURITY.partition("## Bounds\n")[2].partition("\n## ")[0]
    return {f"{name} {key}".strip(): value for _, value, name, key in ROW.findall(table)}


def bounds() -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in vars(limits).items():
        if name.isupper() and name not in ("KIB", "MIB", "GIB"):
            found |= (
                {f"{name} {key}": most for key, most in value.items()}
                if isinstance(value, dict)
                else {name: value}
            )
    return found


def number(text: str) -> float:
    value, _, unit = text.replace(",", "").partition(" ")
    return float(value) * BYTES.get(unit, 1)


def test_every_bound_is_stated_with_its_number() -> None:
    assert {name: number(text) for name, text in stated().items()} == bounds()


def test_the_text_states_the_same_numbers() -> None:
    child = SECURITY.partition("## The child process")[2]
    for said in (
        f"{limits.in_words(limits.CHILD_MEMORY)} of memory",
        f"{limits.CHILD_CPU_SECONDS} seconds of CPU time, {limits.CHILD_SECONDS} on the clock",
        f"more than {limits.MOST_GROWTH_SEEN}-fold",
    ):
        assert said in " ".join(child.split())


@pytest.mark.parametrize("name", [*limits.LARGEST_FILES, *limits.LARGEST_JSON_LINES])
def test_a_file_beyond_its_bound_is_refused_before_it_is_opened(name: str, tmp_path: Path) -> None:
    path = tmp_path / (name if name[0] != "." else f"x{name}")
    if name == "predictions.jsonl":
        path = tmp_path / "evaluations" / "x" / name
        path.parent.mkdir(parents=True)
    most = {**limits.LARGEST_FILES, **limits.LARGEST_JSON_LINES}[name]
    with path.open("wb") as stream:
        stream.truncate(most)
    check_folder(tmp_path)
    with path.open("wb") as stream:
        stream.truncate(most + 1)
    with pytest.raises(
        Exception, match=f"has more than {limits.in_words(most)}, so it is not read"
    ):
        check_folder(tmp_path)
    assert path.suffix not in COMPRESSED


def test_too_many_chat_templates_are_refused(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    for count in range(limits.MOST_CHAT_TEMPLATES + 1):
        check_folder(tmp_path)
        (tmp_path / "additional_chat_templates" / f"{count}.jinja").write_text("")
    with pytest.raises(Exception, match="files in additional_chat_templates"):
        check_folder(tmp_path)
