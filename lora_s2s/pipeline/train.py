"""Recipe → prepared data → adapter folder: the steps behind ``prepare``, ``train`` and ``demo``.

Heavy to import, so verbs do that inside their functions.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from torch import nn

from lora_s2s import __version__, probe
from lora_s2s.console import say, table, warn
from lora_s2s.data.prepared import PreparedDataset, SplitTable
from lora_s2s.errors import UsageError, nearest
from lora_s2s.evaluation.report import write_report
from lora_s2s.export.card import write_card
from lora_s2s.files import (
    code_hash,
    naming,
    read_whole,
    sha256_json,
    write_text,
)
from lora_s2s.hub import locate_model
from lora_s2s.lora.adapter import CONFIG, WEIGHTS, save_adapter
from lora_s2s.lora.inject import inject_lora, total_parameters, trainable_parameters
from lora_s2s.models.common import begin_answers
from lora_s2s.models.family import check_lengths
from lora_s2s.models.loading import LoadedBase, enable_gradient_checkpointing, load_base
from lora_s2s.models.precision import device_name, dtype_name, resolve_device, resolve_dtype
from lora_s2s.models.weights import weights_hash
from lora_s2s.outputs import check_free, check_writable, move_folder, sync_tree
from lora_s2s.pipeline.choices import advice_on, gather_facts, resolved_recipe
from lora_s2s.pipeline.lengths import warn_of_short_answers, with_lengths
from lora_s2s.pipeline.notices import show_data, show_preview
from lora_s2s.pipeline.prepare import data_line, prepare_data, sizes, sources_of
from lora_s2s.recipe.defaults import Facts
from lora_s2s.recipe.load import load_recipe, recipe_to_yaml, with_choices_of
from lora_s2s.recipe.schema import Recipe, TrainingSettings
from lora_s2s.records import FinishedManifest, described, write
from lora_s2s.tokens.added import with_tokens
from lora_s2s.tokens.loading import LANGUAGES, load_tokenizer
from lora_s2s.tokens.lossless import lossless_tokenizer, rows_carrying
from lora_s2s.tokens.special_tokens import first_ids
from lora_s2s.training.guards import run_lock
from lora_s2s.training.log import METRICS
from lora_s2s.training.loop import train
from lora_s2s.training.plan import StepPlan
from lora_s2s.training.processes import is_main_process, main_process_first
from lora_s2s.training.validation import make_validation

_RECIPE_HEAD = (
    "# Every key as this run used it. Run it again: lora-s2s train THIS_FILE --set "
    "output.name=again\n"
)
# What a run computes with: another version of it may give other last digits.
_CODE = ("training", "fast_t5", "lora", "models", "tokens", "data")
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers")


def check_run_folder(recipe: Recipe, *, resume: bool, overwrite: bool) -> tuple[Path, Path]:
    """Returns where the adapter is made (``NAME.running``) and where it stands when whole. Writes
    nothing.

    Raises:
        UsageError: an adapter or an unfinished run of this name would be lost, or the folder cannot
            be written.
    """
    final = Path(recipe.output.dir) / str(recipe.output.name)
    running = final.with_name(f"{final.name}.running")
    # A run and an adapter of one name: the run began with --overwrite.
    if final.exists() and not (overwrite or (resume and running.exists())):
        raise UsageError(
            f"{final} exists already",
            hint="give the new one a name with --set output.name=…, or add --overwrite to replace "
            "it",
        )
    if final.exists() and not (final / "adapter_config.json").is_file():
        raise UsageError(
            f"{final} is not an adapter, so it is not replaced", hint="--set output.name=…"
        )
    if running.exists() and not (resume or overwrite):
        hint = "add --resume to continue it, or --overwrite to start again"
        raise UsageError(f"{running} holds an unfinished run", hint=hint)
    for place in (running, final):
        check_free(place, replace=True)
    check_writable(final.parent)
    return running, final


def train_adapter(
    recipe: Recipe,
    *,
    prepared: PreparedDataset | None = None,
    resume: bool = False,
    anyway: bool = False,
    overwrite: bool = False,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Prepares, trains and writes the adapter's folder; returns the ``--json`` object of ``train``.

    Args:
        prepared: the data, prepared with this recipe; None prepares it.
        anyway: see ``resume_anyway`` of :func:`lora_s2s.training.loop.train`.
        deadline: on ``time.monotonic``'s clock; a run that ends there has ``stopped`` "deadline"
            and no adapter.
    """
    if resume and (finished := _finished(recipe)):
        return finished
    running, final = check_run_folder(recipe, resume=resume, overwrite=overwrite)
    resolve_dtype(recipe.model.dtype, resolve_device())  # refused before minutes go into preparing
    with main_process_first():
        given, prepared = prepared, prepared or prepare_data(recipe)
    sources = sources_of(recipe, prepared, just_made=given is None)
    say(data_line(prepared))
    show_data(prepared.manifest.report)
    warn_of_short_answers(recipe, prepared)
    recipe = with_lengths(recipe, prepared)
    tokenizer, train_tokens = _tokenizer(recipe, prepared)
    base, model = _adapted_base(recipe, train_tokens)
    begin_answers(model, **first_ids(tokenizer))
    counts = _parameter_counts(model)
    recipe = resolved_recipe(
        recipe, _facts(prepared, base, counts), begun=running if resume else None
    )
    say(
        f"{recipe.model.name}: {counts['trainable_parameters']:,} of "
        f"{counts['total_parameters']:,} parameters train, the base in {_stored(base)} on "
        f"{base.device}"
    )
    settings, validation, pad = (
        recipe.training.settled(),
        prepared.split("validation"),
        int(tokenizer.pad_token_id),
    )
    batching = {"tokens_per_batch": settings.tokens_per_batch, "batch_size": settings.batch_size}
    with _running(running, resume=resume):
        if is_main_process():
            write_text(running / "recipe.yaml", _RECIPE_HEAD + recipe_to_yaml(recipe))
        result = train(
            model,
            prepared.train,
            pad_token_id=pad,
            settings=settings,
            run_dir=running,
            evaluate=make_validation(validation, pad_token_id=pad, **batching)
            if validation
            else None,
            resume=resume,
            resume_anyway=anyway,
            identity=_identity(recipe, base, prepared),
            deadline=deadline,
        )
        if result.stopped == "deadline":
            return {"adapter": None, **asdict(result), **counts, "advice": []}
        if not is_main_process():
            return {"adapter": str(final), **asdict(result), **counts, "advice": []}
        if weights_hash(locate_model(base.name, base.revision)) != base.weights_sha256:
            warn(
                f"{base.name} changed on disk during the run; the adapter is for its weights as "
                "they were"
            )
        save_adapter(model, running)
        with naming(running / "tokenizer.json"):
            tokenizer_files = [Path(name) for name in tokenizer.save_pretrained(running)]
        made = {
            **_origin(recipe, base, prepared),
            "sources": sources,
            "training": asdict(result),
            "scores": {},
        }
        loaded = (running / CONFIG, running / WEIGHTS, *tokenizer_files)
        made["files"] = described(path for path in loaded if path.is_file())
        made["counts"] = {**counts, "train_tokens": len(train_tokens)}
        write(running, made)
        write_report(running, name=final.name)
        write_card(running, name=final.name)
        sync_tree(running)
        move_folder(running, final)
        probe.remember(final)
    return {
        "adapter": str(final),
        **asdict(result),
        **counts,
        "advice": advice_on(final, recipe, len(prepared.train)),
    }


def dry_run(
    recipe: Recipe, prepared: PreparedDataset | None = None
) -> tuple[Recipe, dict[str, Any]]:
    """Counts rows, steps, tokens and parameters with nothing left on the disk.

    Returns:
        the resolved recipe, and the ``--json`` object.
    """
    with tempfile.TemporaryDirectory(prefix="lora-s2s-") as folder:
        prepared = prepared or prepare_data(recipe, Path(folder) / "prepared")
        report = prepared.manifest.report
        show_data(report)
        show_preview(prepared.preview)
        warn_of_short_answers(recipe, prepared)
        recipe = with_lengths(recipe, prepared)
        base, model = _adapted_base(recipe, _tokenizer(recipe, prepared)[1])
        counts = _parameter_counts(model)
        recipe = resolved_recipe(recipe, _facts(prepared, base, counts))
        training = recipe.training.settled()
        counted = {**_steps(prepared.train, training), **counts}
        whole = {key: value for key, value in prepared.report.items() if key != "out"}
    shown = {
        "examples": sizes(report),
        "left out": f"{report['rows']['rejected']:,} of {report['rows']['read']:,} rows",
        "source tokens": "  ".join(
            f"{key} {value:,}" for key, value in report["source_tokens"].items()
        ),
        "target tokens": "  ".join(
            f"{key} {value:,}" for key, value in report["target_tokens"].items()
        ),
        "micro-batches": f"{counted['batching']}, × {training.gradient_accumulation} a step",
        "optimizer": f"{training.optimizer}, {training.schedule}, {training.learning_rate:g}",
        "steps": f"{counted['steps']:,} in {counted['epochs']:.2f} epochs",
        "tokens": f"{counted['tokens']:,}",
        "trainable parameters": f"{counted['trainable_parameters']:,} of "
        f"{counted['total_parameters']:,}",
    }
    table(
        f"Dry run: {recipe.output.name}",
        ["what", "how much"],
        [[key, value] for key, value in shown.items()],
    )
    return recipe, {"dry_run": True, "recipe": recipe.model_dump(mode="json"), **whole, **counted}


def _facts(prepared: PreparedDataset, base: LoadedBase, counts: dict[str, int]) -> Facts:
    parameters = counts["total_parameters"] - counts["trainable_parameters"]
    return gather_facts(prepared, parameters=parameters, device=base.device.type)


def _steps(rows: SplitTable, settings: TrainingSettings) -> dict[str, Any]:
    plan = StepPlan(rows, settings)
    plan.say_what_is_long()
    epochs = plan.total_steps / len(plan.steps(0))
    tokens_in_epoch = int(rows.source_lengths.sum() + rows.target_lengths.sum())
    size = (
        f"{settings.batch_size} rows"
        if settings.batch_size
        else f"up to {settings.tokens_per_batch:,} padded tokens"
    )
    return {
        "steps": plan.total_steps,
        "epochs": round(epochs, 4),
        "tokens": round(tokens_in_epoch * epochs),
        "batching": f"{size}, {'packed' if settings.packing else 'grouped by length'}",
    }


def _tokenizer(recipe: Recipe, prepared: PreparedDataset) -> tuple[Any, list[int]]:
    """Returns the tokenizer that prepared the data, and the ids of the tokens whose rows train."""
    languages = {key: getattr(recipe.data, key) for key in LANGUAGES}
    tokenizer = load_tokenizer(recipe.model.name, recipe.model.revision, **languages)
    given = prepared.manifest.input
    tokenizer, carried = with_tokens(tokenizer, given.special_tokens), given.carried
    rows = range(len(tokenizer), len(tokenizer) + rows_carrying(carried))
    ids = train_token_ids(recipe, tokenizer, rows)
    if carried and not ids:
        warn(
            "spare rows carry text, and none of them trains: set data.lossless_text=off, or "
            "lora.train_tokens=auto"
        )
    return lossless_tokenizer(tokenizer, carried) if carried else tokenizer, ids


def train_token_ids(recipe: Recipe, tokenizer: Any, carried_ids: Sequence[int]) -> list[int]:
    """Returns the ids of the tokens that train, ascending: those that carry text and those named;
    none for ``[]``.

    Raises:
        UsageError: a name that is not in the vocabulary.
    """
    wanted = recipe.lora.train_tokens
    named = [] if wanted == "auto" else token_ids(wanted, tokenizer)
    # A row that nobody has trained says nothing: what carries text trains with what is named.
    return sorted({*named, *(carried_ids if wanted else ())})


def token_ids(names: Sequence[str], tokenizer: Any) -> list[int]:
    """Returns the ids of tokens, given as they stand in the vocabulary.

    Raises:
        UsageError: one is not in it; the nearest is named.
    """
    vocabulary = tokenizer.get_vocab()
    for name in names:
        if name not in vocabulary:
            hint = "name tokens as the vocabulary writes them, such as ▁the for a word's beginning"
            raise UsageError(
                f"lora.train_tokens: no token '{name}'{nearest(name, vocabulary)}", hint=hint
            )
    return [vocabulary[name] for name in names]


def _adapted_base(recipe: Recipe, train_tokens: Sequence[int]) -> tuple[LoadedBase, nn.Module]:
    """Loads a recipe's base and injects its adapter, ready to train."""
    section = recipe.model
    base = load_base(
        section.name,
        revision=section.revision,
        dtype=section.dtype,
        quantization=section.quantization,
        skip_quantization=section.skip_quantization,
    )
    lengths = {key: getattr(recipe.data, key) for key in ("max_source_tokens", "max_target_tokens")}
    check_lengths(base.family, base.model.config, name=section.name, **lengths)
    model = inject_lora(base, recipe.lora, train_tokens=train_tokens, seed=recipe.training.seed)
    base.family.set_dropout(model, recipe.training.dropout)
    if recipe.training.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return base, model


def _parameter_counts(model: nn.Module) -> dict[str, int]:
    return {
        "trainable_parameters": trainable_parameters(model),
        "total_parameters": total_parameters(model),
    }


def _identity(recipe: Recipe, base: LoadedBase, prepared: PreparedDataset) -> dict[str, str]:
    return {
        "package code": code_hash(*_CODE),
        "torch": version("torch"),
        "forward": os.environ.get("LORA_S2S_FORWARD", "fast"),
        "training rows": str(len(prepared.train)),
        "base weights on disk": base.weights_sha256,
        "dtype": str(base.dtype),
        "quantization": ",".join((base.quantization, *base.skip_quantization)),
        "training data": prepared.fingerprint,
        "lora": sha256_json(recipe.lora.model_dump(mode="json")),
        "device": device_name(base.device),
    }


@contextmanager
def _running(folder: Path, *, resume: bool) -> Iterator[None]:
    """Makes the running folder and holds it; a failure takes it away only if no step had been taken
    in it.
    """
    main = is_main_process()
    with run_lock(folder, take=main):  # --overwrite does not reach a run that is alive
        with main_process_first():
            if main and folder.exists() and not resume:
                folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
            fresh = main and not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException as error:
            saved = any(folder.glob("checkpoints/step-*"))
            if fresh and not saved and not _has_steps(folder):
                shutil.rmtree(folder, ignore_errors=True)
            elif main and saved and isinstance(error, KeyboardInterrupt | SystemExit | OSError):
                say(f"{folder} holds what is done: continue with --resume")
            raise


def _has_steps(folder: Path) -> bool:
    log = folder / METRICS
    return log.is_file() and log.stat().st_size > 0


def _finished(recipe: Recipe) -> dict[str, Any] | None:
    """Returns the object of a run that has come to its end already: whoever resumes until it is
    done need not know.
    """
    final = Path(recipe.output.dir) / str(recipe.output.name)
    written, running = final / "recipe.yaml", final.with_name(f"{final.name}.running")
    if running.exists() or not written.is_file():
        return None
    text = read_whole(written).decode("utf-8", "replace")
    if text != _RECIPE_HEAD + recipe_to_yaml(with_choices_of(recipe, load_recipe(str(written)))):
        return None
    with run_lock(running, take=is_main_process()):  # takes away a lock that a killed process left
        hint = "add --overwrite to train it again"
        manifest = FinishedManifest.read(final, hint=hint)
    say(f"{final} is done already")
    training = cast(dict[str, Any], manifest.content["training"])
    return {
        "adapter": str(final),
        **training,
        **manifest.counts.model_dump(),
        "advice": [],
    }


def _stored(base: LoadedBase) -> str:
    """How a base is held in memory: its number format, and what of it is quantized."""
    dtype = dtype_name(base.dtype)
    kept = f" but for {', '.join(base.skip_quantization)}" if base.skip_quantization else ""
    return dtype if base.quantization == "none" else f"{base.quantization}{kept}, the rest {dtype},"


def _origin(recipe: Recipe, base: LoadedBase, prepared: PreparedDataset) -> dict[str, Any]:
    """Returns the part of an adapter's manifest that says what it was made from."""
    described = {
        key: getattr(base, key) for key in ("name", "revision", "weights_sha256", "quantization")
    }
    described["skip_quantization"] = list(base.skip_quantization)
    described["dtype"] = dtype_name(base.dtype)
    return {
        "format": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "name": recipe.output.name,
        "base": described,
        "data": {
            "fingerprint": prepared.fingerprint,
            **{key: prepared.report[key] for key in ("rows", "splits")},
        },
        "input": prepared.manifest.content["input"],
        "versions": {"lora_s2s": __version__, **{name: version(name) for name in _PACKAGES}},
        "device": str(base.device),
    }
