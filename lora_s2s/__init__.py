"""Fine-tune encoder-decoder models with LoRA: prepare, train, score, merge, ship.

>>> import lora_s2s
>>> model = lora_s2s.load("adapters/short", progress=False)
>>> answer = model("a table for four on friday")

Importing the package loads nothing heavy; the functions are imported when they are first used.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_s2s.errors import (
        DataError,
        Error,
        RecipeError,
        ResourceError,
        RunError,
        SetupError,
        Stopped,
        UsageError,
    )
    from lora_s2s.pipeline.api import evaluate, export, init, load, merge, train
    from lora_s2s.pipeline.api_prepare import prepare
    from lora_s2s.pipeline.api_sweep import sweep
    from lora_s2s.pipeline.recipes import load_recipe

# tqdm, which libraries import, advises ipywidgets in a notebook; nothing here needs them.
warnings.filterwarnings("ignore", "IProgress not found")

__version__ = "0.1.0"
__all__ = [
    "DataError",
    "Error",
    "RecipeError",
    "ResourceError",
    "RunError",
    "SetupError",
    "Stopped",
    "UsageError",
    "__version__",
    "evaluate",
    "export",
    "init",
    "load",
    "load_recipe",
    "merge",
    "prepare",
    "sweep",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'lora_s2s' has no attribute '{name}'")
    elsewhere = {
        "load_recipe": "pipeline.recipes",
        "prepare": "pipeline.api_prepare",
        "sweep": "pipeline.api_sweep",
    }
    module = elsewhere.get(name, "pipeline.api")
    home = f"lora_s2s.{'errors' if name[0].isupper() else module}"
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
