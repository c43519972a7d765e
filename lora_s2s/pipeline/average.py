"""Adapters or checkpoints averaged into a new adapter folder. Heavy to import."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from lora_s2s import __version__, probe
from lora_s2s.console import say, warn
from lora_s2s.errors import DataError, UsageError
from lora_s2s.files import described, read_whole, sha256_file, write_bytes
from lora_s2s.lora.adapter import CONFIG, WEIGHTS, is_adapter, write_files
from lora_s2s.lora.average import How, average
from lora_s2s.lora.members import Group, Place, read_members
from lora_s2s.outputs import check_new, whole_folder
from lora_s2s.pipeline.names import located, resume_command
from lora_s2s.records import AdapterManifest, write
from lora_s2s.reports.adapter_page import write_report
from lora_s2s.reports.card import write_card
from lora_s2s.tokens.files import TOKENIZER_FILES
from lora_s2s.training.checkpoint import read_checkpoint

# Of the first adapter's manifest: how it answers, and what it was made from.
_TAKEN = ("base", "data", "input", "sources", "plain_transformers")
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class AveragedAdapter:
    """What was averaged: ``out`` is the new adapter's folder, ``of`` the adapters with their
    shares.

    ``error`` is how far the update is from the one that the method asks for, as a share of its
    norm: what a lower rank leaves out.
    """

    out: Path
    method: str
    of: dict[str, float]
    rank: int | None
    error: float

    def to_dict(self) -> dict[str, object]:
        """The object of ``adapters average --json``."""
        return {**asdict(self), "out": str(self.out)}


def average_adapters(
    names: Sequence[str],
    out: Path,
    how: How,
    *,
    weights: Sequence[float] | None = None,
    base: str | None = None,
) -> AveragedAdapter:
    """Averages adapters, or checkpoints of runs, into a new adapter.

    Args:
        names: adapter folders, their names in ``adapters/``, or ``RUN/checkpoints/step-N``.
        weights: of each, divided by their sum; equal by default.
        base: a base in place of the one that the first adapter names.

    Raises:
        UsageError: fewer than two, or weights that are no shares.
        DataError: one is no adapter, or they do not belong together.
    """
    shares = _shares(names, weights)
    check_new(out)
    places = [_place(name) for name in names]
    group = read_members(places, shares, base_override=base)
    _compare_inputs(group, names)
    kept = average(group.members, how)
    of = dict(zip(names, shares, strict=True))
    averaged: dict[str, object] = {
        "method": how.kind,
        "of": [_shown(place) for place in places],
        "shares": shares,
        "weights_sha256": [sha256_file(place.weights or place.run / WEIGHTS) for place in places],
        "rank": kept.rank,
        "error": kept.error,
        **({"density": how.density, "seed": how.seed} if how.density else {}),
    }
    with whole_folder(out) as staged:
        write_files(staged, kept.config, kept.state)
        _complete(staged, out.name, places[0].run, group, averaged)
    probe.remember(out)
    return AveragedAdapter(out, how.kind, of, kept.rank, kept.error)


def _shares(names: Sequence[str], weights: Sequence[float] | None) -> list[float]:
    if len(names) < 2:
        raise UsageError(
            f"average takes two adapters or more, got {len(names)}", hint="lora-s2s adapters"
        )
    if repeated := [name for name in names if list(names).count(name) > 1]:
        raise UsageError(f"{repeated[0]} is named twice", hint="--weights 2,1 counts one more")
    given = [1.0] * len(names) if weights is None else list(weights)
    if len(given) != len(names):
        raise UsageError(f"{len(given)} weights for {len(names)} adapters")
    if not all(weight > 0 and math.isfinite(weight) for weight in given):
        raise UsageError("weights: expected numbers above 0, one for each adapter")
    return [weight / sum(given) for weight in given]


def _place(name: str) -> Place:
    folder = Path(located(name)).expanduser()
    if folder.parent.name == _CHECKPOINTS and not is_adapter(folder):
        run = folder.parent.parent
        if not is_adapter(run):
            raise DataError(
                f"{run} is no finished adapter, which says how its checkpoints answer",
                hint=f"continue: {resume_command(run)}",
            )
        return Place(name, run, read_checkpoint(folder).weights)
    if folder.suffix == ".running":
        raise DataError(
            f"{folder} is an unfinished run", hint=f"continue: {resume_command(folder)}"
        )
    return Place(name, folder)


def _shown(place: Place) -> str:
    """Its name without the folders it is in."""
    run = place.run.absolute().name
    return run if place.weights is None else f"{run}/{place.weights.parent.name}"


def _compare_inputs(group: Group, names: Sequence[str]) -> None:
    """Refuses adapters that write with other tokens; reports another template or length."""
    first = group.manifests[0].input
    for name, manifest in zip(names[1:], group.manifests[1:], strict=True):
        other = manifest.input
        for key in ("carried", "special_tokens", "source_language", "target_language"):
            if getattr(first, key) != getattr(other, key):
                raise DataError(
                    f"{names[0]} and {name} differ in {key}: their tokens have other meanings",
                    hint="average adapters that were trained with the same data settings",
                )
        if first.template != other.template:
            warn(
                f"{name} was trained with another template; the average reads rows by {names[0]}'s"
            )


def _complete(
    staged: Path, name: str, first: Path, group: Group, averaged: dict[str, object]
) -> None:
    """Writes tokenizer, recipe, manifest, report and card beside the weights."""
    tokenizer = [first / file for file in TOKENIZER_FILES if (first / file).is_file()]
    for path in tokenizer:
        shutil.copyfile(path, staged / path.name)
    recipe = first / "recipe.yaml"
    if recipe.is_file():
        write_bytes(staged / recipe.name, read_whole(recipe))
    content = AdapterManifest.read(first).content
    taken = {key: content[key] for key in _TAKEN if key in content}
    files = [staged / CONFIG, staged / WEIGHTS, *(staged / path.name for path in tokenizer)]
    made = {
        "format": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "name": name,
        **taken,
        "versions": {"lora_s2s": __version__},
        "averaged": averaged,
        "scores": {},
        "files": described(files),
    }
    if "base" not in made:  # an adapter of another tool
        made["base"] = {"name": group.base.name, "weights_sha256": group.base.weights_sha256}
    write(staged, made)
    write_report(staged, name=name)
    write_card(staged, name=name)
    say(f"the recipe is that of {first}: it says how to score, not how the average was made")
