"""The recipe's section ``output``: where the adapter goes, and what it is called by its data."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from lora_s2s.recipe.fields import Section
from lora_s2s.systems import file_name, is_plain_name

_ENDINGS = re.compile(r"(\.[A-Za-z]+)?(\.(gz|zst|zip))?(@[0-9.]+)?$")
# A file or folder whose name says nothing of its task.
_PART = re.compile(
    r"(train|training|trainset|all|full|data|dataset|datasets|examples|rows|tmp|shared|home)",
    re.IGNORECASE,
)


def _on_every_system(name: str | None) -> str | None:
    if name is not None and not is_plain_name(name):
        raise ValueError("expected a name that Windows can store too: no device, no dot at the end")
    return name


class OutputSection(Section):
    """The adapter's folder."""

    dir: str = Field(
        default="adapters",
        min_length=1,
        description="Folder for adapters, relative to the current one.",
    )
    name: Annotated[str | None, AfterValidator(_on_every_system)] = Field(
        default=None,
        pattern=r"^[\p{L}\p{Nd}][\p{L}\p{M}\p{Nd}._-]{0,99}$",
        description="Name of the adapter's folder; by default the recipe's name.",
    )


def run_name(path: str) -> str:
    """Returns a name for a run on a file: ``my-file`` for ``data/my file.csv.gz``."""
    name = path if path.startswith(("demo:", "hf:")) else _ENDINGS.sub("", Path(path).name)
    return file_name(name) or "run"


def starter_name(path: str) -> str:
    """Returns a name for a starter recipe on a file: its folder's where the file's own says only
    what part of the data it is.

    >>> starter_name("nl2bash/all.jsonl.gz"), starter_name("my.csv"), starter_name("data/train.csv")
    ('nl2bash', 'my', 'train')
    """
    name = run_name(path)
    folder = Path(os.path.abspath(os.path.expanduser(path))).parent.name
    if not _PART.fullmatch(name) or _PART.fullmatch(folder) or path.startswith(("demo:", "hf:")):
        return name
    return run_name(f"{folder}/") if folder else name
