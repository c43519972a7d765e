"""The boundaries of ARCHITECTURE.md: layers, one home per library, annotations,
no broad excepts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lora_s2s"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

# A package imports packages of a lower rank only, never of its own.
RANKS = {
    "errors": 0,
    "limits": 0,
    "machine": 0,
    "systems": 0,
    "display": 0,
    "files": 1,
    "hub": 1,
    "console": 2,
    "demo": 2,
    "outputs": 2,
    "documents": 2,
    "data_report": 3,
    "probe": 3,
    "remote": 3,
    "recipe": 4,
    "readers": 4,
    "tokens": 4,
    "examples": 5,
    "records": 5,
    "reports": 6,
    "data": 7,
    "models": 7,
    "lora": 8,
    "fast_t5": 9,
    "training": 10,
    "inference": 10,
    "evaluation": 11,
    "exporters": 11,
    "pipeline": 12,
    "serving": 13,
    "commands": 14,
    "cli": 15,
    "__main__": 16,
}

HOMES = {
    "fsspec": ("remote",),
    "psutil": ("machine",),
    "ray": ("pipeline",),
    "botocore": ("remote",),
    "peft": ("lora",),
    "bitsandbytes": ("models",),
    "pydantic": ("recipe", "documents", "records", "serving"),
    "fastapi": ("serving",),
    "starlette": ("serving",),
    "uvicorn": ("serving",),
    "prometheus_client": ("serving",),
    "gradio": ("serving",),
    "yaml": ("recipe",),
    "rich": ("console",),
    "huggingface_hub": ("hub",),
    "datasets": ("readers",),
    "optuna": ("pipeline",),
    "pyarrow": ("readers", "data"),
    "sacrebleu": ("evaluation",),
    "rouge_score": ("evaluation",),
    "matplotlib": ("reports",),
    "accelerate": ("training",),
    "ctranslate2": ("inference",),
    "onnx": ("exporters",),
    "onnx_ir": ("exporters",),
    "onnxruntime": ("inference", "exporters"),
    "onnxscript": ("exporters",),
    "xgrammar": ("inference",),
    "jinja2": ("examples", "reports"),
    "markupsafe": ("reports",),
    "tokenizers": ("tokens",),
    "typer": ("commands", "cli"),
}

NEVER = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


def imports(path: Path) -> Iterator[str]:
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "lora_s2s":
                yield from (f"lora_s2s.{alias.name}" for alias in node.names)
            else:
                yield node.module


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    found = []
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append((f"{path.relative_to(PACKAGE)}:{node.name}", node, length))
    return found


def test_imports_go_one_way() -> None:
    wrong = []
    for path in FILES:
        package = package_of(path)
        if package == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "lora_s2s" or len(parts) < 2 or parts[1] == "__version__":
                continue
            if parts[1] != package and RANKS[parts[1]] >= RANKS[package]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_no_relative_imports_and_empty_inits() -> None:
    for path in FILES:
        assert not any(
            isinstance(node, ast.ImportFrom) and node.level for node in nodes_of(path)
        ), path
        if path.name == "__init__.py" and path.parent != PACKAGE:
            assert path.read_text(encoding="utf-8") == "", path


def test_no_import_cycles() -> None:
    modules = {
        ".".join(("lora_s2s", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in FILES
    }
    edges = {
        name: {other for other in imports(path) if other in modules}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in edges[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_one_module_opens_a_manifest() -> None:
    """Others name the file in a table of bounds or of files, or not at all."""
    named = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, ast.Constant) and node.value in ("manifest.json", "state.json")
    }
    assert named == {"records.py", "limits.py", "probe.py"}


@pytest.mark.parametrize("library", sorted(HOMES))
def test_each_library_has_one_home(library: str) -> None:
    users = {
        package_of(path)
        for path in FILES
        for name in imports(path)
        if name.split(".")[0] == library
    }
    assert users <= set(HOMES[library])


def test_nothing_unpickles() -> None:
    for path in FILES:
        names = {name.split(".")[0] for name in imports(path)}
        assert not names & NEVER, path
        source = path.read_text(encoding="utf-8")
        forbidden = re.search(
            r"(?<!safetensors\.)torch\.(load|save)\(|trust_remote_code|(?<!\.)\b(eval|exec)\(",
            source,
        )
        assert not forbidden, f"{path}: {forbidden}"


def test_the_ignored_label_is_defined_once() -> None:
    written = [path for path in FILES if re.search(r"= -100$", path.read_text("utf-8"), re.M)]
    assert written == [PACKAGE / "tokens" / "labels.py"]


def test_t5_facts_live_in_one_package() -> None:
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        if package_of(path) != "models" and (
            "SelfAttention" in source or "EncDecAttention" in source
        ):
            raise AssertionError(f"{path} names T5's modules; that belongs to models/t5*.py")


def test_the_pipeline_neither_prints_nor_knows_typer() -> None:
    shows = {"say", "warn", "ProgressLine", "plain", "counted"}
    for path in FILES:
        if package_of(path) != "pipeline":
            continue
        assert not set(imports(path)) & {"typer", "rich"}, path
        for node in nodes_of(path):
            if isinstance(node, ast.ImportFrom) and node.module == "lora_s2s.console":
                assert {alias.name for alias in node.names} <= shows, path
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert name != "print", path
            assert not name.startswith(("sys.stdout", "sys.stderr")), path


def test_any_stands_where_a_foreign_library_forces_it() -> None:
    named = [
        node
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, ast.Name) and node.id == "Any"
    ]
    assert len(named) <= 240  # stated in ARCHITECTURE.md


def test_the_training_step_is_short() -> None:
    found = {name: length for name, _, length in functions() if name.endswith(":train_step")}
    assert found, "train_step has gone"
    assert max(found.values()) < 50


def test_everything_is_annotated_and_documented() -> None:
    wrong = []
    for name, node, _ in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
        if node.returns is None or any(argument.annotation is None for argument in named):
            wrong.append(f"{name} lacks annotations")
    for path in FILES:
        for node in tree_of(path).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith(
                "_"
            )
            if public and not ast.get_docstring(node):
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.name} lacks a docstring")
    assert not wrong


def test_no_broad_excepts_and_no_asserts() -> None:
    wrong = []
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.Assert):
                wrong.append(f"{path}:{node.lineno} asserts")
            if isinstance(node, ast.ExceptHandler):
                names = (
                    {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)}
                    if node.type
                    else {""}
                )
                reraises = any(
                    isinstance(part, ast.Raise) and part.exc is None for part in ast.walk(node)
                )
                if names & {"Exception", "BaseException", ""} and not reraises:
                    wrong.append(f"{path}:{node.lineno} catches everything")
    assert not wrong


def test_no_duplicated_windows_of_eight_lines() -> None:
    seen: dict[tuple[str, ...], str] = {}
    wrong = []
    for path in FILES:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        code = [
            (number, line)
            for number, line in enumerate(lines, 1)
            if len(line) > 3 and not line.startswith(("#", "from ", "import "))
        ]
        for start in range(len(code) - 7):
            window = tuple(line for _, line in code[start : start + 8])
            here = f"{path.relative_to(PACKAGE)}:{code[start][0]}"
            if window in seen:
                wrong.append(f"{seen[window]} = {here}")
            seen.setdefault(window, here)
    assert not wrong
