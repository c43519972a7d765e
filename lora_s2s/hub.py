"""Where a model's files are: the bundled base, a folder, or the hub. The only place that talks to a hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, StrictDataclassError

from lora_s2s.errors import SetupError, UsageError

DEMO_NAME = "demo"
DEMO_BASE = Path(__file__).parent / "demo" / "base"

# What a model's config raises when a field has the wrong type or value.
MalformedConfig = StrictDataclassError

# Weights only as safetensors: pickled checkpoints are never fetched.
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.spm", "*.txt", "LICENSE*"]
_WITHOUT_WEIGHTS = [pattern for pattern in _PATTERNS if pattern != "*.safetensors"]


def locate_model(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Returns the folder that holds a model's config, weights and tokenizer.

    Args:
        name: ``demo`` for the bundled base, a folder, or a hub id such as ``google/flan-t5-base``.
        revision: a hub branch, tag or commit.
        weights: false where config and tokenizer do, so that gigabytes are not fetched for them.

    Raises:
        UsageError: the name is neither a folder nor a valid hub id.
        SetupError: the hub does not have it or cannot be reached, and the local cache lacks it.
    """
    if name == DEMO_NAME:
        return DEMO_BASE
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise UsageError(f"no such model folder: {name}", hint="give an existing folder, a hub id, or 'demo'")
    return _from_hub(name, revision, _PATTERNS if weights else _WITHOUT_WEIGHTS)


def _from_hub(name: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
        # An earlier call may have fetched the tokenizer alone.
        if patterns is _WITHOUT_WEIGHTS or any(folder.glob("*.safetensors")):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass  # not in the cache yet, or a name the call below explains
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise UsageError(f"'{name}' is neither a folder nor a hub id", hint="try --set model.name=demo") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise SetupError(
            f"the model '{name}' is not on this machine and could not be fetched ({type(error).__name__})",
            hint="check the name and the network, give a local folder, or try --set model.name=demo",
        ) from error
