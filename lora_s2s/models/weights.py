"""A checkpoint's safetensors files: which ones hold weights, names and shapes, hashes, writing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.files import (
    known_sha256,
    naming,
    open_regular,
    read_json,
    sha256_json,
    write_json,
)
from lora_s2s.hub import CONVERT, foreign_weights
from lora_s2s.systems import is_plain_name

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a model folder, one or the shards its index names, sorted by
    name.

    Raises:
        DataError: there is none (a pickled ``.bin`` is never opened), a shard is missing, or the
            index is damaged.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / _INDEX).is_file():
        reason = foreign_weights(folder)
        raise DataError(
            f"no safetensors weights in the folder: expected {WEIGHTS} or {_INDEX}{reason}",
            hint=CONVERT if reason else "choose a model that ships model.safetensors",
            where=str(folder),
        )
    index = read_json(folder / _INDEX)
    named = index.get("weight_map") if isinstance(index, dict) else None
    shards = set(named.values()) if isinstance(named, dict) and named else {None}
    for name in shards:
        if (
            not isinstance(name, str)
            or not is_plain_name(name)
            or not name.endswith(".safetensors")
        ):
            raise DataError(
                "the index does not name safetensors files of its own folder",
                where=str(folder / _INDEX),
            )
        if not (folder / name).is_file():
            raise DataError(f"the shard {name} is missing", where=str(folder))
    return sorted(folder / name for name in shards if name)


def shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Returns name → shape of every weight, read from the files' headers alone.

    Raises:
        DataError: a file is damaged, or two hold the same weight.
    """
    shape_of: dict[str, tuple[int, ...]] = {}
    for path in files:
        with opened(path) as tensors:
            for name in tensors.keys():  # noqa: SIM118  (a reader, not a dict)
                if name in shape_of:
                    raise DataError(f"the weight {name} occurs twice", where=str(path))
                shape_of[name] = tuple(tensors.get_slice(name).get_shape())
    return shape_of


def misfit(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], *, foreign: str
) -> str | None:
    """Compares weights by name → shape; returns the first difference and the number of others, or
    None.

    If some are missing and others unexpected, it names the first of each: they may be one weight
    under two names.

    Args:
        foreign: what the message says of an unexpected weight.
    """
    missing = [f"{name} is missing" for name in expected if name not in found]
    unexpected = [f"{name} {foreign}" for name in found if name not in expected]
    if missing and unexpected:
        missing[0] += f", and {unexpected.pop(0)}"
    problems = missing + unexpected
    problems += [
        f"{name} has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{problems[0]}{more}" if problems else None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a safetensors file for reading onto the CPU; each tensor has its own memory, freed with
    it.

    The file is not mapped: what was read of a mapped file stays in memory as long as it is open.

    Raises:
        DataError: it is not a safetensors file, or it is damaged.
    """
    with open_regular(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
    # A longer header would be parsed into memory many times its size.
    if length > (most := limits.LARGEST_SAFETENSORS_HEADER):
        raise DataError(
            f"a safetensors header of {length:,} bytes, at most {most:,}", where=str(path)
        )
    try:
        with safe_open(path, framework="pt", device="cpu", backend="pread") as tensors:
            yield tensors
    except SafetensorError as error:
        raise DataError(f"not a valid safetensors file: {error}", where=str(path)) from error


def finite_weight(
    name: str, tensor: Tensor, path: Path, dtype: torch.dtype | None = None
) -> Tensor:
    """Returns a weight cast to ``dtype``, checked to be finite floating-point numbers.

    Args:
        dtype: None leaves it as it is.

    Raises:
        DataError: it holds other values, or overflows in the cast.
    """
    if tensor.dtype not in _DTYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise DataError(
            f"the weight {name} is of type {kind}, expected floating-point numbers", where=str(path)
        )
    cast = tensor if dtype is None else tensor.to(dtype)
    if not is_finite(cast):
        if cast is tensor or not is_finite(tensor):
            raise DataError(
                f"the weight {name} holds values that are not finite numbers", where=str(path)
            )
        kind = str(cast.dtype).removeprefix("torch.")
        hint = (
            "--set model.dtype=float32"
            if cast.dtype is torch.float16
            else "get the file again, it is damaged"
        )
        raise DataError(
            f"the weight {name} holds values that are too large for {kind}",
            hint=hint,
            where=str(path),
        )
    return cast


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    # The smallest and the largest in one pass, without a mask as large as the tensor; NaN is passed
    # on.
    return not tensor.numel() or all(bool(end.isfinite()) for end in torch.aminmax(tensor))


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one safetensors file with the usual permissions; safetensors itself sets 0600."""
    try:
        with naming(path):
            save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # it carries no errno
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path)) from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # the new folder's mode follows the umask


def write_shards(folder: Path, tensors: Mapping[str, Tensor], most: int | None) -> None:
    """Writes a model's weights: one file, or several with an index, as transformers reads them.

    Args:
        most: bytes of weights in a file, except for a single larger weight; None for one file.
    """
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in tensors.items():
        if most is not None and shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    if len(shards) == 1:
        write_weights(folder / WEIGHTS, shards[0])
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_weights(folder / file, shard)
        places.update(dict.fromkeys(shard, file))
    write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def weights_hash(folder: Path) -> str:
    """Returns the SHA-256 over the sorted (file name, SHA-256) pairs of a model's weights, cached
    in this process.
    """
    return sha256_json([[path.name, known_sha256(path)] for path in weight_files(folder)])
