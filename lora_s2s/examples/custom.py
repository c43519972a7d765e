"""A user function as format: ``module:function`` takes a row and returns its pairs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from lora_s2s.errors import UsageError
from lora_s2s.examples.columns import text_in
from lora_s2s.examples.example import Example, Unusable, checked
from lora_s2s.examples.shapes import Converter
from lora_s2s.examples.template import PromptTemplate, Template
from lora_s2s.readers.rows import Fields


def user_function(name: str, what: str = "format") -> Callable[..., Any]:
    """Imports ``module:function``, also from the current folder.

    Args:
        name: which one.
        what: what it is for, in messages.

    Raises:
        UsageError: there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise UsageError(
            f"the {what} '{name}' cannot be imported: {error}",
            hint="write module:function, with a module in the current folder or an installed one",
        ) from error
    finally:
        sys.path.pop()
    if not callable(function):
        raise UsageError(f"the {what} '{name}' is not a function")
    return function  # type: ignore[no-any-return]


def custom_converter(name: str, template: Template, seed: int) -> Converter:
    """A converter that makes a row's examples by a user function.

    Args:
        name: ``module:function``; it takes a row as a dict and returns one (source, target) pair or
            several.
    """
    function = user_function(name)
    prompt = PromptTemplate.of(template)

    def convert(fields: Fields, where: str) -> Iterator[Example]:
        try:
            result = function(dict(fields))
            is_pair = isinstance(result, tuple) and len(result) == 2
            pairs = [result] if is_pair else list(result or [])
            texts = [{"source": source, "target": target} for source, target in pairs]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unusable(f"{name} failed: {type(error).__name__}: {error}") from error
        for pair in texts:
            source = prompt.render({"source": text_in(pair, "source", "source")}, seed)
            yield Example(checked(source, "source"), text_in(pair, "target", "target"), where)

    return convert
