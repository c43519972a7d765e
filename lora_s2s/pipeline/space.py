"""The folder of a Hugging Face Space that shows a model beside its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lora_s2s import __version__
from lora_s2s.errors import DataError
from lora_s2s.files import write_bytes, write_text
from lora_s2s.hub import DEMO_NAME
from lora_s2s.outputs import whole_folder
from lora_s2s.pipeline.adapters import recipe_of
from lora_s2s.pipeline.push import checked_contents

SDK = "6.31.0"
_APP = '''"""Answers with the model in the folder `model`. Written by `lora-s2s ui --space`."""

from pathlib import Path

from lora_s2s.pipeline.side_by_side import open_side_by_side
from lora_s2s.serving.ui import page

model = Path(__file__).parent / "model"
demo = page(open_side_by_side(str(model), baseline={baseline}, base={base}), feedback=None)
demo.launch(ssr_mode=False)
'''
_README = """---
title: {title}
sdk: gradio
sdk_version: {sdk}
app_file: app.py
pinned: false
---

A model of `lora-s2s` on one's own text. What visitors write is not kept.
"""


def write_space(model: str, out: Path, *, baseline: bool, base: str | None = None) -> None:
    """Writes a Space's folder: the program, what it needs, and the model's files.

    The model's files are those that ``push`` uploads, with the same refusals.

    Args:
        model: an adapter's, a model's or an export's folder.
        base: the base that the Space downloads; by default the one in the adapter's recipe.

    Raises:
        DataError: see :func:`lora_s2s.pipeline.push.checked_contents`; or the model is not a
            folder.
        UsageError: ``out`` exists.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise DataError(f"{model} is not a folder, which a Space needs", hint="give a folder")
    contents = checked_contents(folder)
    named = base or (recipe_of(model).model.name if (folder / "recipe.yaml").is_file() else None)
    used = None if named == DEMO_NAME else named
    with whole_folder(out) as staged:
        for name, content in contents.items():
            path = staged / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                write_bytes(path, content)
            else:
                shutil.copyfile(content, path)
        write_text(staged / "app.py", _APP.format(baseline=baseline, base=ascii(used)))
        write_text(staged / "requirements.txt", f"lora-s2s[ct2,onnx,ui]=={__version__}\n")
        title = json.dumps(folder.resolve().name[:60])
        write_text(staged / "README.md", _README.format(title=title, sdk=SDK))
