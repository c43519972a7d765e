"""The process around a call: quiet libraries, progress, and failures as errors. Light to import."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lora_s2s.display import Display, chosen, showing
from lora_s2s.pipeline.failures import (
    FORESEEN,
    check_current_folder,
    check_interpreter,
    failure_of,
)
from lora_s2s.pipeline.python_hints import in_python

# Libraries' own progress bars and advice would drown what this package reports.
LIBRARY_SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def hide_kernels() -> bool:
    """Hides the package by which bitsandbytes downloads compiled code on import; True if hidden."""
    hidden = "kernels" not in sys.modules
    if hidden:
        sys.modules["kernels"] = None  # type: ignore[assignment]
    return hidden


@contextmanager
def called(progress: bool | Display = True) -> Iterator[None]:
    """A call from Python: shows progress if requested, silences libraries, and raises expected
    failures as :class:`lora_s2s.errors.Error` with hints that name arguments. Restores the process.
    """
    missing = LIBRARY_SETTINGS.keys() - os.environ.keys()
    os.environ.update({name: LIBRARY_SETTINGS[name] for name in missing})
    hidden, log = hide_kernels(), logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with showing(chosen(progress)):
            check_current_folder()
            check_interpreter()
            yield
    except FORESEEN as error:
        failure = failure_of(error)
        if failure is None:
            raise
        failure.hint = in_python(failure.hint)
        notes = {"at": failure.where, "hint": failure.hint}
        failure.__notes__ = [f"{name}: {text}" for name, text in notes.items() if text]
        if failure is error:
            raise
        raise failure from error
    finally:
        log.setLevel(level)
        for name in missing:
            os.environ.pop(name, None)
        if hidden:
            sys.modules.pop("kernels", None)
