"""Whatever it is fed, the worst that happens is one clear message: exit code, words, nothing left
behind.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_parts import Invoke, listing
from spoiling import Case
from table import ADAPTERS, IN_FOLDER, MODELS, prepared

CASES = [*IN_FOLDER, *ADAPTERS, *MODELS]
_PLACES = ("\n  at: ", "\nhint: ")


def test_there_are_many() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 120


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_told(
    case: Case, invoke: Invoke, here: Path, tiny_model: Path, good_adapter: Path
) -> None:
    names = prepared(case, here, tiny_model, good_adapter)
    before = listing(here)
    result = invoke(*(names.get(word, word) for word in case.command.split(" ") if word), code=None)
    said = result.stderr[max(result.stderr.find("error: "), 0) :]
    assert result.exit_code == case.code, said
    assert case.said in said
    assert said.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert case.plain or any(place in said for place in _PLACES), said
    assert not [
        char
        for char in said
        if char != "\n" and (char < " " or "\x7f" <= char < "\xa0" or char == "\u202e")
    ]
    assert len(said) < 20_000
    assert listing(here) == before
