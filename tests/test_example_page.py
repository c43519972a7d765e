"""``docs/EXAMPLE.md``: one row changes form, step by step, as the page says."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "EXAMPLE.md"


def test_the_page_shows_what_comes_out() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert tried > 20
    assert not failed
