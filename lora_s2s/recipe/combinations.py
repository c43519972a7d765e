"""Combinations of metrics, such as ``sqrt(bleu*chrf++)``: names, numbers, + - * /, sqrt and
parentheses. Nothing else is read, and nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from lora_s2s.errors import nearest

_ALLOWED = re.compile(r"[A-Za-z0-9_.+*/() -]{1,200}")
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div)
# Names that Python's grammar does not read as one.
_SPELLED = {"chrf++": "chrf_plus_plus"}
_NAMES = {spelled: name for name, spelled in _SPELLED.items()}
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Arithmetic(Generic[_Value]):
    """How values are combined; ``binary`` are functions for ``OPERATORS``, in their order."""

    number: Callable[[float], _Value]
    root: Callable[[_Value], _Value]
    negative: Callable[[_Value], _Value]
    binary: tuple[Callable[[_Value, _Value], _Value], ...]


@dataclass(frozen=True)
class Combination:
    """A checked combination, and the metrics it names."""

    tree: ast.expr
    metrics: tuple[str, ...]

    def computed(self, values: Mapping[str, _Value], arithmetic: Arithmetic[_Value]) -> _Value:
        """The combination of one value of each metric."""

        def of(node: ast.expr) -> _Value:
            match node:
                case ast.BinOp(left=left, op=op, right=right):
                    return arithmetic.binary[OPERATORS.index(type(op))](of(left), of(right))
                case ast.UnaryOp(operand=operand):
                    return arithmetic.negative(of(operand))
                case ast.Call(args=[operand]):
                    return arithmetic.root(of(operand))
                case ast.Constant(value=constant):
                    return arithmetic.number(float(str(constant)))
                case ast.Name(id=name):
                    return values[_NAMES.get(name, name)]
            raise ValueError(f"unchecked: {ast.dump(node)}")

        return of(self.tree)


def read_combination(text: str, names: Collection[str]) -> Combination:
    """Reads a combination of metrics.

    Args:
        text: at most 200 characters.
        names: the metrics that exist.

    Raises:
        ValueError: it is not one; the message names the part.
    """
    if not _ALLOWED.fullmatch(text):
        raise ValueError(f"unknown metric '{text[:200]}'{nearest(text, names)}")
    spelled = text
    for name, readable in _SPELLED.items():
        spelled = spelled.replace(name, f" {readable} ")
    try:
        tree = ast.parse(spelled.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"'{text}' cannot be read as a combination of metrics") from error
    metrics = tuple(dict.fromkeys(_metrics(tree, names)))
    if not metrics:
        raise ValueError(f"'{text}' names no metric")
    return Combination(tree, metrics)


def _metrics(node: ast.expr, names: Collection[str]) -> list[str]:
    """The metrics that a tree names; refuses everything that is not listed here."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _metrics(left, names) + _metrics(right, names)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _metrics(operand, names)
        case ast.Call(func=ast.Name(id="sqrt"), args=[operand], keywords=[]):
            return _metrics(operand, names)
        case ast.Constant(value=int() | float() as constant) if type(constant) is not bool:
            if abs(constant) > 1e9:
                raise ValueError("a number of a combination is above 1,000,000,000")
            return []
        case ast.Name(id=spelled):
            name = _NAMES.get(spelled, spelled)
            if name in names:
                return [name]
            raise ValueError(f"unknown metric '{name}'{nearest(name, names)}")
    part = ast.unparse(node)
    raise ValueError(f"'{part}' is not a metric, a number, + - * /, sqrt or parentheses")
