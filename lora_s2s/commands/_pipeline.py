"""Recipe → prepared data → adapter folder: the steps behind ``prepare``, ``train`` and ``demo``.

Imports of the layers below are inside the functions: ``--help`` loads this file and must stay light.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_s2s import __version__
from lora_s2s.errors import UsageError
from lora_s2s.files import sha256_json, write_json, write_text

if TYPE_CHECKING:
    from torch import nn

    from lora_s2s.data.prepared import PreparedDataset
    from lora_s2s.models.loading import LoadedBase
    from lora_s2s.recipe.schema import Recipe
    from lora_s2s.training.result import TrainResult

_RECIPE_HEAD = "# Every key as this run used it. Run it again: lora-s2s train THIS_FILE --set output.name=again\n"


def prepare_data(recipe: Recipe, out: Path | None = None) -> PreparedDataset:
    """Prepares a recipe's data, or opens what an earlier run prepared from the same data and settings.

    Args:
        out: the folder; ``prepared/NAME`` beside the folder of adapters by default.
    """
    from lora_s2s.data.prepare import prepare

    data = recipe.data
    return prepare(
        train=data.train,
        validation=data.validation,
        test=data.test,
        format=data.format,
        source_column=data.source_column,
        target_column=data.target_column,
        template=data.template,
        max_source_tokens=data.max_source_tokens,
        max_target_tokens=data.max_target_tokens,
        truncate_source=data.truncate_source,
        long_targets=data.long_targets,
        validation_fraction=data.validation_fraction,
        lossless_text=data.lossless_text,
        model_name=recipe.model.name,
        revision=recipe.model.revision,
        seed=recipe.training.seed,
        out=out or Path(recipe.output.dir).parent / "prepared" / str(recipe.output.name),
    )


@dataclass(frozen=True)
class RunFolder:
    """Where an adapter is made (``NAME.running``) and where it stands when it is whole (``NAME``)."""

    final: Path

    @property
    def running(self) -> Path:
        """The folder that holds checkpoints until the end."""
        return self.final.with_name(f"{self.final.name}.running")


def check_run_folder(recipe: Recipe, *, resume: bool, overwrite: bool) -> RunFolder:
    """Returns the run's folder when nothing there would be lost and it can be written. Writes nothing.

    Raises:
        UsageError: an adapter or an unfinished run of this name exists, or the folder cannot be written.
    """
    folder = RunFolder(Path(recipe.output.dir) / str(recipe.output.name))
    if folder.final.exists() and not overwrite:
        raise UsageError(
            f"{folder.final} exists already",
            hint="give the new one a name with --set output.name=…, or add --overwrite to replace it",
        )
    if overwrite and folder.final.exists() and not (folder.final / "adapter_config.json").is_file():
        raise UsageError(f"{folder.final} is not an adapter, so it is not replaced", hint="--set output.name=…")
    if folder.running.exists() and not (resume or overwrite):
        raise UsageError(
            f"{folder.running} holds an unfinished run",
            hint="add --resume to continue it, or --overwrite to start again",
        )
    check_writable(folder.final.parent)
    return folder


def check_writable(folder: Path) -> None:
    """Refuses a folder that could not be written into, before any work is done for it.

    Raises:
        UsageError: the folder, or the nearest one above it that exists, is a file or takes no files.
    """
    existing = next(place for place in (folder, *folder.parents, Path(".")) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "no permission" if existing.is_dir() else "it is a file"
        raise UsageError(f"cannot write into {existing}: {reason}", hint="choose another folder")


def train_adapter(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Prepares, trains and writes the adapter's folder; returns the ``--json`` object of ``train``."""
    from lora_s2s.console import say
    from lora_s2s.data.tokenise import load_tokenizer
    from lora_s2s.models.precision import resolve_device, resolve_dtype
    from lora_s2s.training.loop import train
    from lora_s2s.training.validation import make_validation

    folder = check_run_folder(recipe, resume=resume, overwrite=overwrite)
    resolve_dtype(recipe.model.dtype, resolve_device())  # refused before minutes go into preparing
    prepared = prepare_data(recipe)
    say(data_line(prepared))
    tokenizer = load_tokenizer(recipe.model.name, recipe.model.revision)
    base, model = adapted_base(recipe)
    counts = parameter_counts(model)
    say(
        f"{recipe.model.name}: {counts['trainable_parameters']:,} of {counts['total_parameters']:,} parameters train, "
        f"{base.dtype} on {base.device}"
    )
    settings, table, validation = recipe.training, prepared.split("train"), prepared.split("validation")
    if table is None:
        raise UsageError(f"{prepared.path} holds no training split", hint="remove it and run again")
    batching = {"tokens_per_batch": settings.tokens_per_batch, "batch_size": settings.batch_size}
    pad = int(tokenizer.pad_token_id)
    with _running(folder, resume=resume):
        result = train(
            model,
            table,
            pad_token_id=pad,
            settings=settings,
            run_dir=folder.running,
            evaluate=make_validation(validation, pad_token_id=pad, **batching) if validation else None,
            resume=resume,
            identity=_identity(recipe, base, prepared),
        )
        _write_adapter(folder, recipe, base, prepared, model, tokenizer, result, counts)
    return {"adapter": str(folder.final), **asdict(result), **counts}


def adapted_base(recipe: Recipe) -> tuple[LoadedBase, nn.Module]:
    """Loads a recipe's base and injects its adapter, ready to train."""
    from lora_s2s.lora.inject import inject_lora
    from lora_s2s.models.loading import enable_gradient_checkpointing, load_base

    section, lora = recipe.model, recipe.lora
    base = load_base(section.name, revision=section.revision, dtype=section.dtype, quantization=section.quantization)
    model = inject_lora(
        base,
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=lora.target_modules,
        method=lora.method,
        seed=recipe.training.seed,
    )
    base.family.set_dropout(model, recipe.training.dropout)
    if recipe.training.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return base, model


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Returns how many parameters train, and how many there are."""
    from lora_s2s.lora.inject import total_parameters, trainable_parameters

    return {"trainable_parameters": trainable_parameters(model), "total_parameters": total_parameters(model)}


def data_line(prepared: PreparedDataset) -> str:
    """Returns one line on what is in a prepared folder."""
    report = prepared.report
    splits = ", ".join(f"{count:,} {name}" for name, count in report["splits"].items())
    count = report["rows"]["rejected"]
    left_out = f"; {count:,} rows left out, see rejected.jsonl" if count else ""
    return f"data: {splits} ({prepared.path}{', as before' if prepared.reused else ''}){left_out}"


def _identity(recipe: Recipe, base: LoadedBase, prepared: PreparedDataset) -> dict[str, str]:
    return {
        "base": base.weights_sha256,
        "dtype": str(base.dtype),
        "data": prepared.fingerprint,
        "lora": sha256_json(recipe.lora.model_dump(mode="json")),
    }


@contextmanager
def _running(folder: RunFolder, *, resume: bool) -> Iterator[None]:
    """Makes the running folder, and takes it away again when the run fails before its first checkpoint."""
    running = folder.running
    if running.exists() and not resume:
        shutil.rmtree(running)
    fresh = not running.exists()
    running.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if fresh and not any(running.glob("checkpoints/step-*")):
            shutil.rmtree(running, ignore_errors=True)
        raise


def _write_adapter(
    folder: RunFolder,
    recipe: Recipe,
    base: LoadedBase,
    prepared: PreparedDataset,
    model: nn.Module,
    tokenizer: Any,
    result: TrainResult,
    counts: dict[str, int],
) -> None:
    """Completes the running folder and renames it into place."""
    from lora_s2s.evaluation.report import write_report
    from lora_s2s.export.card import write_card
    from lora_s2s.files import move_folder, sync_tree
    from lora_s2s.lora.adapter import save_adapter
    from lora_s2s.recipe.load import recipe_to_yaml

    running = folder.running
    save_adapter(model, running)
    tokenizer.save_pretrained(running)
    write_text(running / "recipe.yaml", _RECIPE_HEAD + recipe_to_yaml(recipe))
    write_json(running / "manifest.json", _manifest(recipe, base, prepared, result, counts))
    write_report(running, name=folder.final.name)
    write_card(running, name=folder.final.name)
    sync_tree(running)
    move_folder(running, folder.final)


def _manifest(
    recipe: Recipe,
    base: LoadedBase,
    prepared: PreparedDataset,
    result: TrainResult,
    counts: dict[str, int],
) -> dict[str, Any]:
    from datetime import datetime, timezone
    from importlib.metadata import version

    report = prepared.report
    packages = ("torch", "transformers", "peft", "accelerate", "tokenizers")
    return {
        "format": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "name": recipe.output.name,
        "base": {"name": base.name, "revision": base.revision, "weights_sha256": base.weights_sha256,
                 "dtype": str(base.dtype).removeprefix("torch.")},
        "data": {"fingerprint": prepared.fingerprint, "rows": report["rows"], "splits": report["splits"]},
        "input": prepared.manifest["input"],
        "versions": {"lora_s2s": __version__, **{name: version(name) for name in packages}},
        "device": str(base.device),
        "counts": {**counts, "train_tokens": len(recipe.lora.train_tokens)},
        "training": asdict(result),
        "scores": {},
    }  # fmt: skip
