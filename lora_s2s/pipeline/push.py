"""``push``: an adapter, a model or an export in a repository on the hub, with its card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lora_s2s.console import counted, say
from lora_s2s.errors import DataError, Error, UsageError
from lora_s2s.files import read_object, read_whole
from lora_s2s.hub import ADAPTER_CONFIG, check_repo_name, upload
from lora_s2s.pipeline.private_text import is_text, private_in_text, private_in_weights
from lora_s2s.pipeline.publishable import Publishable, publishable
from lora_s2s.recipe.load import recorded_recipe
from lora_s2s.records import (
    AdapterManifest,
    ExportManifest,
    ModelManifest,
    has_manifest,
    manifest_content,
    verify,
)
from lora_s2s.remote import is_url, upload_folder
from lora_s2s.reports.card import CARD, Published, render_card
from lora_s2s.reports.model_card import render_model_card
from lora_s2s.reports.samples import sample_rows

_LICENSE = re.compile(r"[A-Za-z0-9][\w.+ -]{0,60}", flags=re.ASCII)
_EXAMPLES, _MOST_PROBLEMS = 3, 20


@dataclass(frozen=True)
class PushOptions:
    """How a folder is published.

    Attributes:
        dry_run: check and list, without a network.
        public, overwrite: see :func:`lora_s2s.hub.upload`.
        examples: publish what quotes the data: predictions, the report, examples in the card.
        base_license, data_license: what the card states.
    """

    dry_run: bool = False
    public: bool = False
    overwrite: bool = False
    examples: bool = False
    base_license: str | None = None
    data_license: str | None = None


@dataclass(frozen=True)
class PushReport:
    """What was published, or would be: files with their bytes, what was left out and why.

    ``url`` is None after a dry run.
    """

    repo: str
    files: list[dict[str, str | int]]
    left_out: list[dict[str, str]]
    url: str | None

    def to_dict(self) -> dict[str, object]:
        """Returns the object of ``push --json``."""
        return dict(vars(self))


def push_folder(folder: Path, repo: str, options: PushOptions) -> PushReport:
    """Uploads an adapter, a merged model or an export with a card.

    Args:
        repo: USER/NAME on the hub, private unless ``options.public``; or a URL such as
            ``s3://BUCKET/FOLDER``.

    Raises:
        UsageError: a malformed name or license, or a repository that holds files.
        DataError: not such a folder, a file in it is refused, or it holds secrets or local paths.
        SetupError: no token, or the hub cannot be reached.
    """
    if not is_url(repo):
        check_repo_name(repo)
    elif options.public:
        raise UsageError("--public is for the hub: who may read a bucket is set at its owner's")
    _check_licenses(options)
    allowed = publishable(folder, examples=options.examples)
    contents = _contents(folder, allowed)
    card = _card(folder, repo, allowed, options).encode()
    _check_private({CARD: card}, {})
    contents[CARD] = card
    sizes = {name: size for name, (_, size) in allowed.files.items()} | {CARD: len(card)}
    url = None
    if not options.dry_run:
        say(f"uploading {counted(len(contents), 'file')}, {sum(sizes.values()) / 2**20:,.1f} MiB")
        if is_url(repo):
            upload_folder(contents, repo, manifest=ModelManifest.file, overwrite=options.overwrite)
            url = repo
        else:
            url = upload(repo, contents, public=options.public, overwrite=options.overwrite)
    return PushReport(
        repo,
        [{"path": name, "bytes": sizes[name]} for name in sorted(sizes)],
        [{"path": name, "reason": reason} for name, reason in sorted(allowed.left_out.items())],
        url,
    )


def _check_licenses(options: PushOptions) -> None:
    for license in (options.base_license, options.data_license):
        if license is not None and not _LICENSE.fullmatch(license):
            raise UsageError(
                f"'{license}' is not a license, expected an identifier",
                hint="such as apache-2.0, mit, cc-by-4.0, other",
            )


def _verify(folder: Path, allowed: Publishable) -> None:
    """Compares the files with the manifest's hashes; a damaged folder is not published."""
    if allowed.kind == "adapter":
        verify(folder, AdapterManifest.read(folder).files)
    elif allowed.kind == "model":
        verify(folder, ModelManifest.read(folder).files)
    else:
        verify(folder, ExportManifest.read(folder).files)


def checked_contents(folder: Path) -> dict[str, bytes | Path]:
    """Returns what of a folder may be published, its README and what quotes the data left out.

    Raises:
        DataError: see :func:`push_folder`.
    """
    return _contents(folder, publishable(folder))


def _contents(folder: Path, allowed: Publishable) -> dict[str, bytes | Path]:
    """Returns what is uploaded: texts as they were checked, weights by their path.

    Raises:
        DataError: the folder is damaged, or secrets or local paths in it, each of which is listed.
    """
    _verify(folder, allowed)
    texts = {
        name: read_whole(path, most=max(size, 1))
        for name, (path, size) in allowed.files.items()
        if is_text(name)
    }
    weights = {name: path for name, (path, _) in allowed.files.items() if name not in texts}
    _check_private(texts, weights)
    return {**texts, **{name: path.absolute() for name, path in weights.items()}}


def _check_private(texts: Mapping[str, bytes], weights: Mapping[str, Path]) -> None:
    problems = [
        problem
        for name, content in texts.items()
        for problem in islice(private_in_text(name, content), _MOST_PROBLEMS)
    ]
    problems += [
        problem for name, path in weights.items() for problem in private_in_weights(name, path)
    ]
    if not problems:
        return
    for problem in problems[:_MOST_PROBLEMS]:
        say(f"  {problem}")
    raise DataError(
        f"nothing was uploaded: {counted(len(problems), 'place')} in the folder should not be "
        "published",
        hint="put a relative path or a hub id in place of each path, remove each password and "
        "token, then push again",
        where=problems[0],
    )


def _card(folder: Path, repo: str, allowed: Publishable, options: PushOptions) -> str:
    manifest = manifest_content(folder) if has_manifest(folder) else {}
    sizes = sum(size for _, size in allowed.files.values())
    licenses = (options.base_license, options.data_license)
    name = repo.rpartition("/")[2]
    if allowed.kind != "adapter":
        path = folder / CARD
        own = path.is_file() and not path.is_symlink()  # what a link leads to is not published
        readme = read_whole(path).decode("utf-8", "replace") if own else ""
        return render_model_card(name, manifest, Published(repo, sizes, *licenses), readme=readme)
    config = read_object(folder / ADAPTER_CONFIG)
    made_elsewhere = {"base": {"name": config.get("base_model_name_or_path")}}
    return render_card(
        name,
        manifest or made_elsewhere,
        sample_rows(folder, _EXAMPLES) if options.examples else [],
        config=config,
        published=Published(repo, sizes, *licenses, recipe=_recipe_of(folder)),
    )


def _recipe_of(folder: Path) -> dict[str, object] | None:
    if not (folder / "recipe.yaml").is_file():
        return None
    try:
        return recorded_recipe(folder).model_dump(mode="json")
    except Error as error:
        say(f"the card shows no recipe: {error.message}")
        return None
