"""The data that an adapter's manifest records, and reading what its recipe names only where it is
that data.

The folder may be untrusted: a path that its recipe names could lead to any file of this machine,
whose text would be written into the folder's predictions, card and report. So it is followed only
to content whose hash was recorded.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_s2s.errors import DataError, Error
from lora_s2s.files import sha256_file
from lora_s2s.readers.origins import (
    Origin,
    find_origins,
    hub_name_problem,
    is_hub_name,
    local_path,
    split_weight,
)
from lora_s2s.remote import is_url
from lora_s2s.systems import is_network_path

Named = str | Sequence[str]


def record_data(named: Mapping[str, Named | None], *, parallel: bool = False) -> dict[str, Any]:
    """Returns what a manifest holds of data: by split, each name as it was given and the hashes of
    what it named.

    Args:
        named: split → what the recipe names.
        parallel: see :func:`lora_s2s.readers.origins.find_origins`.

    Raises:
        DataError: a file is missing.
    """
    return {
        split: [{"name": name, "sha256": _hashes(name, parallel)} for name in _listed(value)]
        for split, value in named.items()
        if value
    }


def follow_recorded(
    named: Named, record: object, *, split: str, parallel: bool = False
) -> list[str]:
    """Returns what an untrusted recipe names as data: regular files with the recorded content.

    A folder's and a pattern's files are those of the record; the disk is not walked for them.

    Args:
        record: what :func:`record_data` gave for the split, as the untrusted manifest has it.
        split: for the message.

    Raises:
        DataError: the record lacks a name, or what it names is missing or has other content.
    """
    entries = record if isinstance(record, list) else []
    hashes = {entry["name"]: entry["sha256"] for entry in entries if _is_entry(entry)}
    names: list[str] = []
    checked: set[str] = set()
    for name in _listed(named):
        if name.startswith("demo:"):
            names.append(name)
            continue
        if any(is_url(text) or is_network_path(text) for text in (name, *hashes.get(name, ()))):
            raise _refused(split, name, "nothing is fetched because a file names it")
        if name not in hashes:
            raise _refused(split, name, "its manifest does not record its content")
        for path, sha256 in hashes[name].items():
            _check_content(split, name, path, sha256)
            checked.add(path)
        _, weight = split_weight(name)
        files = [f"{path}@{weight:g}" if weight != 1 else path for path in hashes[name]]
        names += files if is_pattern(name) else [name]
    for origin in find_origins(names, parallel=parallel):
        more = [
            path for path in _files(origin) if path not in checked and not path.startswith("demo:")
        ]
        if more:
            raise _refused(split, more[0], "its manifest does not record its content")
    return names


def is_pattern(name: str) -> bool:
    """Whether a name of data is a pattern and no file."""
    plain, _ = split_weight(name)
    return (
        glob.has_magic(plain)
        and not is_url(plain)
        and not os.path.isfile(os.path.expanduser(plain))
    )


def _listed(named: Named) -> list[str]:
    return [named] if isinstance(named, str) else list(named)


def _hashes(name: str, parallel: bool) -> dict[str, str]:
    plain, _ = split_weight(name)
    if name.startswith("demo:"):
        return {}
    if os.path.isfile(os.path.expanduser(plain)):
        return {plain: sha256_file(local_path(plain))}
    origins = find_origins(name, parallel=parallel)
    return {path: _content(path, origin) for origin in origins for path in _files(origin)}


def _files(origin: Origin) -> Iterator[str]:
    """Yields the names of all files that an origin reads; the name alone of a hub's."""
    if origin.path is None or is_url(origin.name):
        yield origin.name
        return
    yield origin.name if os.path.expanduser(origin.name) == str(origin.path) else str(origin.path)
    yield from (str(path) for path in origin.targets)


def _content(path: str, origin: Origin) -> str:
    return (
        origin.content_hash()
        if origin.path is None or is_url(path)
        else sha256_file(local_path(path))
    )


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return False
    hashes = entry.get("sha256")
    return isinstance(hashes, dict) and all(
        isinstance(text, str) for pair in hashes.items() for text in pair
    )


def _check_content(split: str, name: str, path: str, sha256: str) -> None:
    if is_hub_name(path):
        if problem := hub_name_problem(path):
            raise _refused(split, name, problem)
        try:
            same = Origin(path).content_hash(cached=True) == sha256
        except Error as error:
            raise _refused(split, name, "it is not in the local cache") from error
    else:
        place = local_path(path)
        if not os.path.isfile(place):
            missing = f"{'it' if path == name else path} is not a file on this machine"
            raise _refused(split, name, missing, is_here=False)
        same = sha256_file(place) == sha256
    if not same:
        differs = f"{'it' if path == name else path} differs from the file used in training"
        raise _refused(split, name, differs)


def _refused(split: str, name: str, why: str, *, is_here: bool = True) -> DataError:
    again = f"if that is the data you want: --data {name}"
    hint = again if is_here else "name where it is now: --data FILE"
    return DataError(
        f"the adapter's recipe names '{name}' as data.{split}, but {why}: not read", hint=hint
    )
