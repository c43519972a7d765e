"""Templates: columns filled in once, Jinja where it helps, and nothing a stranger's template could
do harm with.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from lora_s2s.errors import DataError, UsageError
from lora_s2s.examples.asking import is_blank
from lora_s2s.examples.example import Turn, Unusable
from lora_s2s.examples.template import PromptTemplate

FIELDS: dict[str, Any] = {
    "a": "{b} {{ b }} {% raw %}",
    "b": "x",
    "turns": tuple(Turn("user", f"t{number}") for number in range(1000)),
}


def render(template: str | list[str] | None, **fields: Any) -> str:
    return PromptTemplate.of(template).render(fields)


def test_braces_are_filled_in_and_nothing_else() -> None:
    fields = {"a": "{b}", "b": "x", "a.__class__": "named so", "a!r:>9": "odd"}
    assert render("1 {a} {b} {a} {}", **fields) == "1 {b} x {b} {}"
    assert render("{a.__class__} {a!r:>9}", **fields) == "named so odd"
    assert render(None, source="as is") == "as is"
    assert list(PromptTemplate.of("{a} {b} {a}").columns) == ["a", "b"]
    with pytest.raises(DataError, match=r"'c'.*'a', 'b'"):
        render("{c}", a="", b="")
    for nothing in ("no braces", "{# {{ a }} #}{% if true %}x{% endif %}", ""):
        with pytest.raises(UsageError, match="names no column"):
            PromptTemplate.of(nothing)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ a }}", "{b} {{ b }} {% raw %}"),
        ("{{ b | upper }}{{ b|trim|length }}\n", "X1\n"),
        ("{% if b == 'x' and not b == 'y' %}yes{% elif a %}no{% else %}never{% endif %}", "yes"),
        ("{{ 'short' if b else a }}", "short"),
        ("{{ b | replace('x', '{{ a }}') }} {{ c | default('none') }}", "{{ a }} none"),
        ("{% if c is defined %}{{ c }}{% endif %}{% if c %}[{{ c }}]{% endif %}{{ b }}", "x"),
        (
            "{% for t in turns if t.text == 't1' or t.text == 't7' %}x{% endfor %}{{ "
            "turns[-1].text }}",
            "xxt999",
        ),
        (
            "{% for t in turns %}{% if loop.first or loop.last %}{{ loop.index }} {{ t['text'] }} "
            "{% endif %}{% endfor %}",
            "1 t0 1000 t999 ",
        ),
        ("{{ (turns | first).role }} {{ turns[-1].text }}", "user t999"),
        ("<{{ b }}> & {{ a | truncate(3, true, '') | length }}", "<x> & 3"),
    ],
)
def test_jinja(template: str, expected: str) -> None:
    assert PromptTemplate.of(template).render(FIELDS) == expected


def test_a_column_that_an_if_asks_for_may_lack_and_others_may_not() -> None:
    template = PromptTemplate.of("{{ q }}{% if c | trim %} {{ c }}{% endif %}{{ d | default('') }}")
    assert template.columns == {"q": True, "c": False, "d": False}
    assert template.render({"q": "why"}) == "why"
    with pytest.raises(DataError, match=r"'q', but the row has 'c'"):
        template.render({"c": "x"})


REFUSED = [
    "{{ a.__class__ }}",
    "{{ a | attr('__class__') }}",
    "{{ a.b._c }}",
    "{{ _x }}{{ a }}",
    "{% for i in range(10**9) %}{{ a }}{% endfor %}",
    "{% for i in a %}x{% endfor %}",
    "{{ range(10) }}{{ a }}",
    "{% for t in turns %}{% for u in turns %}x{% endfor %}{% endfor %}",
    "{% for t in turns recursive %}{{ loop(t) }}{% endfor %}",
    "{% for t in turns %}{{ loop.cycle('a') }}{% endfor %}",
    "{% for x, y in turns %}{{ a }}{% endfor %}",
    "{{ cycler('a', 'b') }}{{ a }}",
    "{{ joiner() }}{{ a }}",
    "{{ namespace(x=1) }}{{ a }}",
    "{{ lipsum(9999) }}{{ a }}",
    "{{ dict(a=a) }}",
    "{{ a * 1000000 }}",
    "{{ 2 ** 9 }}{{ a }}",
    "{{ a ~ a }}",
    "{{ a + a }}",
    "{{ a % 3 }}",
    "{{ 1e999 }}{{ a }}",
    "{{ '%s' | format(a) }}",
    "{{ 'x{0.__class__}'.format(a) }}",
    "{{ a | center(999999999) }}",
    "{{ a | map('upper') }}",
    "{{ a[0:9] }}",
    "{{ a[b] }}",
    "{{ [a, a] }}",
    "{{ {'x': a} }}",
    "{{ a is callable }}",
    "{{ 99999999999 }}{{ a }}",
    "{% set b = a %}{{ b }}",
    "{% macro m() %}{{ a }}{% endmacro %}",
    "{% include 'x' %}{{ a }}",
    "{% import 'os' as os %}{{ a }}",
    "{% extends a %}",
    "{% block x %}{{ a }}{% endblock %}",
    "{% call a() %}{% endcall %}",
    "{% filter upper %}{{ a }}{% endfilter %}",
    "{% autoescape true %}{{ a }}{% endautoescape %}",
    "{{ a | join(*b) }}",
    "{{ a }}" * 600,
    "{{ a }}" * 6000,
    "{{ " + "(" * 9000 + "a" + ")" * 9000 + " }}",
    "{{ " + "9" * 9000 + " }}{{ a }}",
    "{% if a %}" * 150 + "{% endif %}" * 150,
    "{{ a",
    "{% if a %}",
    "{{ a | nothing }}",
]


@pytest.mark.parametrize("template", REFUSED, ids=lambda text: text[:40])
def test_what_a_template_must_not_say_is_refused_before_it_runs(template: str) -> None:
    with pytest.raises(UsageError):
        PromptTemplate.of(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ a.format }}",
        "{{ a['__class__'] }}",
        "{{ turns[0].count }}",
        "{{ turns[5000].text }}",
        "{{ turns }}",
        "{{ turns[0] }}",
        "{{ none }}{{ a }}",
        "{{ (a == b) }}",
        "{% for t in turns %}{{ loop.cycle }}{% endfor %}",
        "{{ self }}{{ a }}",
        "{{ a | truncate(1) }}",
        "{{ a < turns }}",
        "{{ turns | join(',', attribute='__class__') }}",
        "{{ b " + f"| replace('', '{'y' * 9000}')" * 2 + "}}",
        "{{ big | join('" + "y" * 9000 + "') }}",
        "{% for t in turns %}" + "{{ big }}" * 20 + "{% endfor %}",
    ],
    ids=lambda text: text[:40],
)
def test_what_shows_only_in_a_row_leaves_the_row_out(template: str) -> None:
    made = PromptTemplate.of(template)
    with pytest.raises(Unusable, match="the template cannot be filled in"):
        made.render({**FIELDS, "big": "0123456789" * 1000})


def test_syntax_errors_say_the_line() -> None:
    with pytest.raises(UsageError, match="not Jinja") as caught:
        PromptTemplate.of("{{ a }}\n\n{% if a %}{{ b ?? }}")
    assert caught.value.where == "template:3"
    with pytest.raises(UsageError, match="call") as caught:
        PromptTemplate.of("{{ a }}\n{{ a.upper() }}")
    assert caught.value.where == "template:2"
    assert "trim" in str(caught.value.hint)


def test_of_several_templates_each_row_keeps_its_own() -> None:
    several = PromptTemplate.of(["q: {a}", "{{ a }}?", "{a} {b}"])
    rows = [{"a": f"row {number}", "b": "x", "id": str(number)} for number in range(300)]
    made = [several.render(row, key=1) for row in rows]
    kinds = Counter(text[:3] == "q: " or text[-1] for text in made)
    assert sorted(kinds.values()) >= [60, 60, 60]
    # Neither the place of a row nor a column that no template names changes the choice; the seed
    # does.
    assert [several.render({**row, "id": "9"}, key=1) for row in reversed(rows)] == made[::-1]
    assert [several.render(row, key=2) for row in rows] != made
    with pytest.raises(UsageError, match="101 templates, expected 1 to 100"):
        PromptTemplate.of(["{a}"] * 101)
    with pytest.raises(UsageError, match="0 templates"):
        PromptTemplate.of([])


@pytest.mark.parametrize(
    ("template", "text", "source"),
    [
        ("summarize: {text}", "summarize: a cat", "summarize: a cat"),
        ("summarize: {text}", "Summarize:a cat", "summarize: a cat"),
        (
            "translate English to German: {{ text }}",
            " translate English to German: a",
            "translate English to German: a",
        ),
        ("Q: {{ text | trim }} A:", "Q: who", "Q: who A:"),
        ("The {text}", "the cat", "The the cat"),  # one plain word may be the text's own
        ("{text} summarize:", "summarize: a", "summarize: a summarize:"),
        ("summarize: {text}", "summarize:", "summarize: summarize:"),
    ],
)
def test_a_template_is_applied_once(template: str, text: str, source: str) -> None:
    assert PromptTemplate.of(template).render({"text": text}) == source


@pytest.mark.parametrize(
    ("row", "blank"),
    [
        ({"a": "", "b": None}, True),
        ({"a": " ", "b": "x"}, False),
        ({"a": 0, "b": ""}, False),
        ({"a": ""}, False),
        (" ", True),
    ],
)
def test_a_row_is_blank_where_all_columns_of_the_template_are(row: Any, blank: bool) -> None:
    how: dict[str, Any] = {"format": "pairs", "source_column": None, "template": "Sum: {a} {b}"}
    assert is_blank(row, **how) == blank
