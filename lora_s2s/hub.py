"""Locates a model's files: bundled base, folder, or hub. The only module that uses a hub.

Folders are untrusted: links out of them and oversized files are refused before anything is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import islice
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    ModelCardData,
    constants,
    get_repo_discussions,
    get_token,
    snapshot_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from huggingface_hub.utils import validate_repo_id

from lora_s2s import limits
from lora_s2s.errors import DataError, SetupError, UsageError, again, nearest, quoted, with_settings
from lora_s2s.systems import is_network_path

ADAPTER_CONFIG = "adapter_config.json"
EVALUATIONS = "evaluations"
RECIPE = "recipe.yaml"
DEMO_NAME = "demo"
DEMO_BASE = Path(__file__).parent / "demo" / "base"

# What a model's config raises when a field has the wrong type or value.
MalformedConfig = StrictDataclassError

# Weights only as safetensors: pickled checkpoints are never downloaded.
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.spm", "*.txt", "LICENSE*"]
_WITHOUT_WEIGHTS = [pattern for pattern in _PATTERNS if pattern != "*.safetensors"]

# The hub's account that opens pull requests with a model's weights as safetensors.
_CONVERTER = "SFconvertbot"

# Weights in formats that can contain code, and in formats that this package does not read.
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".npz", ".npy")
_FOREIGN_WEIGHTS = (*_PICKLES, ".h5", ".msgpack", ".onnx", ".gguf")
AN_ADAPTER = "an adapter folder is what 'lora-s2s train' writes; 'lora-s2s adapters' lists yours"
CONVERT = (
    "convert it in a container without network: torch.load with weights_only, then save_file of "
    "safetensors"
)

_REPO = re.compile(r"[\w.-]+/[\w.-]+", flags=re.ASCII)
_NO_FILE = "give a name or a folder here, and data with --data FILE, or --input FILE of predict"
_LOG_IN = "hf auth login (or set HF_TOKEN to a token that may write)"

_WEIGHTS = {".safetensors", ".onnx_data"}
_CHECKED = {".jsonl", *_WEIGHTS, *(Path(f"x{name}").suffix for name in limits.LARGEST_FILES)}

_cache_only: ContextVar[bool] = ContextVar("cache_only", default=False)


def locate_model(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Returns the folder that holds a model's config, weights and tokenizer.

    Args:
        name: ``demo`` for the bundled base, a folder, or a hub id such as ``google/flan-t5-base``.
        revision: a hub branch, tag or commit.
        weights: false if config and tokenizer suffice, to avoid downloading gigabytes.

    Raises:
        UsageError: the name is neither a folder nor a valid hub id.
        DataError: the folder is refused, see :func:`check_folder`, or a file is in its place.
        SetupError: neither the local cache nor the hub has it, or the hub is unreachable.
    """
    if name == DEMO_NAME:
        return DEMO_BASE
    # These functions of os.path never raise, whatever the name.
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        return check_folder(folder)
    if os.path.isfile(folder):
        hint = CONVERT if folder.suffix in _FOREIGN_WEIGHTS else _NO_FILE
        if folder.suffix in (".yaml", ".yml"):
            hint = f"a recipe makes an adapter: lora-s2s train {quoted(name)}"
        raise DataError(
            f"{folder.name} is a file, expected a folder; it is not opened", hint=hint, where=name
        )
    if re.search(r"^[./~]|/[^/]*/|^[A-Za-z]:|\\", name):
        raise UsageError(
            f"no such model folder: {name}", hint="give an existing folder, a hub id, or 'demo'"
        )
    return _from_hub(name, revision, _PATTERNS if weights else _WITHOUT_WEIGHTS)


def check_folder(folder: Path) -> Path:
    """Checks the files of a model's or adapter's folder without opening them; returns the folder.

    Raises:
        DataError: a link leads out of it (its target would be read and published, or written to),
            or a file is too large for its kind.
    """
    home = folder.resolve()
    # The hub's cache keeps files beside its snapshots.
    own = (home, home.parents[1] / "blobs") if home.parent.name == "snapshots" else (home,)
    templates = [
        *islice(folder.glob("additional_chat_templates/*"), limits.MOST_CHAT_TEMPLATES + 1)
    ]
    if len(templates) > limits.MOST_CHAT_TEMPLATES:
        problem = f"more than {limits.MOST_CHAT_TEMPLATES} files in additional_chat_templates"
        raise DataError(problem, where=str(folder))
    inside = (*folder.glob("evaluations/*/*"), *folder.glob("onnx/*"))
    for path in (*folder.iterdir(), *inside, *templates):
        # As file systems that ignore case find it: Windows', and macOS' by default.
        name, suffix = path.name.casefold(), path.suffix.casefold()
        is_read = suffix in _CHECKED and path.is_file()
        if not is_read and name != EVALUATIONS:  # scores are written below it
            continue
        if not any(path.resolve().is_relative_to(place) for place in own):
            hint = "put the file itself there, if you trust it"
            raise DataError(
                f"{path.name} is a link that leads out of its folder", hint=hint, where=str(path)
            )
        most = limits.largest(name, suffix) or limits.LARGEST_JSON_LINES.get(name)
        if most and path.stat().st_size > most:
            problem = f"{path.name} has more than {limits.in_words(most)}, so it is not read"
            raise DataError(problem, where=str(path))
    return folder


def is_trained(folder: Path) -> bool:
    """Whether a folder is an adapter, or a whole model that a run of this package trained."""
    whole = (folder / "config.json").is_file() and (folder / RECIPE).is_file()
    return whole or (folder / ADAPTER_CONFIG).is_file()


def adapters_inside(folder: Path) -> list[str]:
    """Returns the names of the adapters directly inside a folder, checkpoints ordered by step."""
    inside = [path.name for path in folder.glob("[!.]*") if is_trained(path)]
    return sorted(inside, key=lambda name: (name.rstrip("0123456789"), len(name), name))


def check_is_folder(folder: Path) -> None:
    """Raises DataError where there is no folder that could be an adapter."""
    if folder.is_dir():
        return
    more = "; a file is not opened: name its folder" if folder.is_file() else ""
    raise DataError(f"no such adapter folder: {folder}{more}", hint=AN_ADAPTER)


def no_adapter(folder: Path) -> DataError:
    """Returns the error for a folder that is not an adapter; it names adapters inside it."""
    inside = adapters_inside(folder)
    listed = f"; these folders in it are adapters: {', '.join(inside[-5:])}" if inside else ""
    hint = str(folder / inside[-1]) if inside else "lora-s2s adapters"
    return DataError(f"{folder} is not an adapter: it has no {ADAPTER_CONFIG}{listed}", hint=hint)


def foreign_weights(folder: Path) -> str:
    """Returns a clause about weights in the folder that are never opened; empty if none."""
    names = (path.name for path in folder.iterdir() if path.suffix.lower() in _FOREIGN_WEIGHTS)
    first = min(names, default="")
    kind = "a pickle" if first.lower().endswith(_PICKLES) else "no safetensors file"
    return f"; {first} is {kind} and is never opened" if first else ""


def has_token() -> bool:
    """Whether a hub token is set on this machine."""
    return bool(get_token())


def is_offline() -> bool:
    """Whether the hub is switched off."""
    return bool(constants.HF_HUB_OFFLINE)


def is_folder(name: str) -> bool:
    """Whether a model's name is a folder."""
    return name != DEMO_NAME and os.path.isdir(os.path.expanduser(name))


def is_local(name: str, revision: str | None) -> bool:
    """Whether a model can be loaded without the network."""
    if is_network_path(name):
        return False
    if name == DEMO_NAME or is_folder(name):
        return True
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        return any(folder.glob("*.safetensors"))
    except (LocalEntryNotFoundError, HFValidationError):
        return False


@contextmanager
def only_cache() -> Iterator[None]:
    """Restricts hub access inside the block to the local cache."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    token = _cache_only.set(True)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        _cache_only.reset(token)


def is_cache_only() -> bool:
    """Whether :func:`only_cache` is in force: nothing is fetched, from wherever."""
    return _cache_only.get()


def card_head(
    base: str | None,
    *,
    tags: Sequence[str],
    metrics: Sequence[str],
    license: str | None,
    library: str,
) -> str:
    """Returns the YAML head of a model card, as hubs read it.

    Values of metrics are left out: hubs want ids of datasets for them.
    """
    head = ModelCardData(
        base_model=base,
        library_name=library,
        license=license,
        metrics=list(metrics) or None,
        pipeline_tag="text2text-generation",
        tags=list(tags),
    )
    return str(head.to_yaml()).strip()


def check_repo_name(repo: str) -> None:
    """Checks that a repository's name has the form USER/NAME.

    Raises:
        UsageError: it has not.
    """
    try:
        validate_repo_id(repo)
        valid = _REPO.fullmatch(repo) is not None
    except HFValidationError:
        valid = False
    if not valid:
        raise UsageError(
            f"malformed repository name '{repo}', expected USER/NAME",
            hint="letters, digits, '-', '_' and '.', such as me/flan-t5-bookings",
        )


def upload(
    repo: str, files: Mapping[str, bytes | Path], *, public: bool = False, overwrite: bool = False
) -> str:
    """Uploads files into a model repository in one commit; creates it, private by default.

    Args:
        files: name in the repository → content, or the path of a large file.
        public: the repository may be, or becomes, public.
        overwrite: the repository may hold files already; others than these stay.

    Returns:
        the repository's address.

    Raises:
        SetupError: no token, offline, or the hub cannot be reached or refuses.
        UsageError: the repository holds files, or is public.
    """
    if constants.HF_HUB_OFFLINE:
        raise SetupError(
            "the hub is switched off here (HF_HUB_OFFLINE or --offline)",
            hint="unset HF_HUB_OFFLINE, omit --offline; or only list the files: --dry-run",
        )
    if not get_token():
        raise SetupError("no Hugging Face token on this machine", hint=_LOG_IN)
    api = HfApi()
    with _hub_failures(repo):
        sha = _prepare_repo(api, repo, public=public, overwrite=overwrite)
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in files.items()
        ]
        message = "Upload with lora-s2s push"
        api.create_commit(repo, operations, commit_message=message, parent_commit=sha)
    return f"{api.endpoint}/{repo}"


def _prepare_repo(api: HfApi, repo: str, *, public: bool, overwrite: bool) -> str | None:
    """Creates the repository, or checks the one that exists; returns its last commit."""
    try:
        found = api.repo_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public)
        return None
    if not found.private and not public:
        raise UsageError(
            f"{repo} is public", hint="add --public to upload into it, or choose another name"
        )
    names = [file.rfilename for file in found.siblings or () if file.rfilename != ".gitattributes"]
    if names and not overwrite:
        raise UsageError(
            f"{repo} holds {len(names):,} files already ({names[0]}, …)",
            hint="choose another name, or replace files of the same names (others stay): "
            f"{again('--overwrite')}",
        )
    sha: str | None = found.sha
    return sha


@contextmanager
def _hub_failures(repo: str) -> Iterator[None]:
    """Turns failures of the hub into errors with the next command."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise SetupError("the hub does not accept the token", hint=_LOG_IN) from error
        if status == 403:
            raise SetupError(
                f"the token may not write to {repo}",
                hint="`hf auth whoami` names its user; it needs the permission to write",
            ) from error
        raise SetupError(
            f"the hub refused the upload to {repo} (status {status})", hint="try again later"
        ) from error
    except (OfflineModeIsEnabled, HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a file of the folder, not the network
        raise SetupError(
            f"cannot reach the hub ({type(error).__name__}); nothing was committed to {repo}",
            hint="check the network, then run it again",
        ) from error


def _from_hub(name: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        folder = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, local_files_only=True
            )
        )
        # An earlier call may have downloaded only the tokenizer.
        if patterns is _WITHOUT_WEIGHTS or any(folder.glob("*.safetensors")):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass  # not in the cache yet, or a name the call below explains
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        if patterns is _PATTERNS and not any(folder.glob("*.safetensors")):
            raise DataError(
                f"the hub has no safetensors weights of '{name}'; a pickle is never loaded",
                hint=_converted(name) or "choose a base that has model.safetensors",
            )
        return folder
    except HFValidationError as error:
        raise UsageError(
            f"'{name}' is neither a folder nor a hub id", hint="try --set model.name=demo"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        meant = nearest(name, [DEMO_NAME])
        raise SetupError(
            f"the model '{name}'{meant} is not on this machine, and {_why_not_fetched(error)}",
            hint="check the name and the network, give a local folder, or try "
            f"{with_settings('model.name=demo')}",
        ) from error


def _converted(name: str) -> str:
    """The command that takes the hub's own conversion to safetensors; empty if there is none."""
    with suppress(HfHubHTTPError, OSError):
        for found in get_repo_discussions(name, author=_CONVERTER, discussion_type="pull_request"):
            command = with_settings(f"model.revision=refs/pr/{found.num}")
            return f"{command} (the hub's own conversion, {name}/discussions/{found.num})"
    return ""


def _why_not_fetched(error: Exception) -> str:
    if is_offline():
        return "the hub is switched off (HF_HUB_OFFLINE)"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub shows none of that name (a private one needs a token: hf auth login)"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"the hub refused it (status {error.response.status_code})"
    return f"the hub cannot be reached ({type(error.__cause__ or error).__name__})"
