"""Size and density of the package, by the measures that ARCHITECTURE.md states its bars in."""

from __future__ import annotations

import ast
import statistics
import tokenize
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lora_s2s"
FILES = sorted(PACKAGE.rglob("*.py"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in FILES}
TREES = {path: ast.parse(text) for path, text in TEXTS.items()}

# The first is stated in ARCHITECTURE.md; a feature raises it by what it needs.
CODE_TOKENS = 331_500
TOKENS_PER_LINE = 8.8
LINE_LENGTH = 100
FILE_LINES = 400
FUNCTION_LINES = 80
MEDIAN_FUNCTION_LINES = 15
PARAMETERS = 8
# Typer reads a command's options from its signature.
MANY_PARAMETERS = {
    "commands/init.py:init",
    "commands/prepare.py:prepare",
    "commands/train.py:train",
    "commands/eval.py:evaluate",
    "commands/predict.py:predict",
    "commands/push.py:push",
    "commands/sweep.py:sweep",
    "pipeline/api.py:evaluate",
}
FAN_OUT = 16
CLASSES = 455
ANY = 240

Function = ast.FunctionDef | ast.AsyncFunctionDef
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def docstring_lines(tree: ast.Module) -> set[int]:
    """Line numbers that belong to docstrings."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def code_size(path: Path) -> tuple[int, int]:
    """Tokens and lines of a file without comments, docstrings and layout."""
    documented = docstring_lines(TREES[path])
    with path.open("rb") as stream:
        tokens = [
            token
            for token in tokenize.tokenize(stream.readline)
            if token.type not in LAYOUT and token.start[0] not in documented
        ]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(tokens), len(lines)


def functions() -> list[tuple[str, Function]]:
    """Every function with its file and name."""
    return [
        (f"{path.relative_to(PACKAGE)}:{node.name}", node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def parameters(node: Function) -> int:
    """Parameters without ``self`` and ``cls``."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in arguments)


def test_the_package_is_small_and_its_lines_are_light() -> None:
    sizes = [code_size(path) for path in FILES]
    tokens, lines = (sum(column) for column in zip(*sizes, strict=True))
    assert tokens <= CODE_TOKENS
    assert tokens / lines <= TOKENS_PER_LINE


def test_no_long_files_and_lines() -> None:
    lines = {path: text.splitlines() for path, text in TEXTS.items()}
    assert not {str(path): len(held) for path, held in lines.items() if len(held) > FILE_LINES}
    long = [f"{path}:{line}" for path, held in lines.items() for line in held if is_long(line)]
    assert not long
    assert not [path for path, text in TEXTS.items() if "fmt: skip" in text or "fmt: off" in text]


def is_long(line: str) -> bool:
    """Whether a line is too long without a checker's comment at its end, as ruff measures it."""
    return len(line.partition("  # noqa")[0].partition("  # type: ignore")[0]) > LINE_LENGTH


def test_functions_are_short_and_take_few_parameters() -> None:
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert statistics.median(lengths.values()) <= MEDIAN_FUNCTION_LINES
    assert not {name: length for name, length in lengths.items() if length > FUNCTION_LINES}
    many = {name for name, node in functions() if parameters(node) > PARAMETERS}
    assert many <= MANY_PARAMETERS


def test_no_module_depends_on_many_others() -> None:
    fan_out = {
        path: {
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and node.module is not None
            and node.module.partition(".")[0] == PACKAGE.name
        }
        for path, tree in TREES.items()
    }
    assert not {str(path): len(names) for path, names in fan_out.items() if len(names) > FAN_OUT}


def test_few_classes_and_few_untyped_values() -> None:
    nodes = Counter(type(node) for tree in TREES.values() for node in ast.walk(tree))
    assert nodes[ast.ClassDef] <= CLASSES
    names = [
        node.id for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Name)
    ]
    assert names.count("Any") <= ANY
