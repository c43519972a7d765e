"""A model that is ready to answer: an adapter folder, a merged or exported folder, a hub name, or
the bundled base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_s2s.documents import checked
from lora_s2s.errors import DataError, UsageError
from lora_s2s.examples.shapes import DIALOGUES
from lora_s2s.examples.template import check_recorded
from lora_s2s.hub import adapters_inside, check_folder, no_adapter
from lora_s2s.inference import ct2_engine, onnx_engine
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.lora.adapter import (
    ONLY,
    LoadedAdapter,
    is_adapter,
    load_adapter,
)
from lora_s2s.lora.several import add_adapter
from lora_s2s.models.common import begin_answers
from lora_s2s.models.loading import LoadedBase, load_base
from lora_s2s.models.own_decoding import OwnDecoding, own_decoding
from lora_s2s.records import (
    AdapterManifest,
    ExportManifest,
    InputSettings,
    ModelManifest,
    is_export,
    verify,
)
from lora_s2s.tokens.loading import languages_of, load_tokenizer
from lora_s2s.tokens.special_tokens import first_ids

# How an exported folder is opened, by its format.
ENGINES = {"ct2": ct2_engine.open_folder, "onnx": onnx_engine.open_folder}


def load_predictor(
    name: str,
    *,
    base: str | None = None,
    device: str | torch.device | None = None,
    dtype: str = "auto",
) -> Predictor:
    """Loads whatever answers: an adapter, a model or an exported folder, a hub name, or ``demo``.

    Args:
        name: the folder or name.
        base: for an adapter, a base to use in place of the one its manifest names.
        device: a torch device; None takes the best one here.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        UsageError: no such model, or ``base`` for something that is not an adapter.
        DataError: the adapter or its manifest is refused.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and is_adapter(folder):
        adapter = load_adapter(folder, dtype=dtype, device=device, base_override=base)
        return predictor_of_adapter(name, adapter)
    if base is not None:
        raise UsageError(
            f"{name} is not an adapter, so it takes no other base", hint="leave --base away"
        )
    if is_export(folder):
        return _exported(name, folder, dtype)
    if folder.is_dir() and not (folder / "config.json").is_file() and adapters_inside(folder):
        raise no_adapter(folder)
    return _plain(name, load_base(name, dtype=dtype, device=device))


def load_sharing(names: Sequence[str], *, dtype: str = "auto") -> list[Predictor]:
    """Loads a model or adapter, and further adapters over the same copy of its base.

    Raises:
        UsageError: the others are not adapters, or the first is an export.
        DataError: an adapter is refused, or cannot share the base.
    """
    first, *others = names
    folder, further = Path(first).expanduser(), [Path(name).expanduser() for name in others]
    if not others:
        return [load_predictor(first, dtype=dtype)]
    for name, path in zip(others, further, strict=True):
        if not is_adapter(path):
            hint = "start another server for another model"
            raise UsageError(f"{name} is not an adapter for {first}", hint=hint)
    if is_adapter(folder):
        loaded = [load_adapter(folder, dtype=dtype)]
        predictors = [predictor_of_adapter(first, loaded[0])]
    elif is_export(folder):
        hint = "serve the adapters with the model itself, or export each"
        raise UsageError(f"{first} is an export, which takes no adapters", hint=hint)
    else:
        base = load_base(first, dtype=dtype)
        plain = _plain(first, base)
        loaded = [load_adapter(further[0], base=base)]
        adapted = predictor_of_adapter(others[0], loaded[0])
        engine = replace(adapted.torch.without_adapter(), name=first)
        predictors = [replace(plain, engine=engine), adapted]
    for name, path in list(zip(names, [folder, *further], strict=True))[len(predictors) :]:
        adapter = f"adapter-{len(loaded)}"
        loaded.append(add_adapter(loaded[0], path, adapter))
        predictors.append(predictor_of_adapter(name, loaded[-1], adapter))
    for one, path in zip(predictors, [folder, *further], strict=True):
        if _ends(one) != _ends(predictors[0]):
            problem = f"its answers begin or end with other tokens than those of {first}"
            raise DataError(problem, hint="start a server for each", where=str(path))
    return predictors


def _ends(predictor: Predictor) -> tuple[object, ...]:
    tokenizer = predictor.tokenizer
    ends = first_ids(tokenizer)
    return tokenizer.pad_token_id, tokenizer.eos_token_id, ends["start"], ends["first"]


def _plain(name: str, model: LoadedBase) -> Predictor:
    manifest = ModelManifest.read(model.path)
    settings = input_settings(manifest.input, where=str(ModelManifest.path(model.path)))
    tokenizer = load_tokenizer(name, None, **languages_of(settings))
    predictor = _predictor(TorchEngine(name, model.model, tokenizer), model, settings)
    # The settings of a merged folder are those that it was scored with: nothing to report.
    followed = replace(predictor.own_decoding or OwnDecoding(), changed={}, ignored={})
    return replace(predictor, own_decoding=followed) if manifest.decoding else predictor


def predictor_of_adapter(name: str, adapter: LoadedAdapter, peft_name: str = ONLY) -> Predictor:
    """Returns a loaded adapter on its base, ready to answer."""
    folder = adapter.folder
    settings = input_settings(adapter.manifest.input, where=str(AdapterManifest.path(folder)))
    # Adapters made by plain PEFT come without a tokenizer; theirs is the base's.
    own = (folder / "tokenizer_config.json").is_file()
    place = (str(folder), None) if own else (adapter.base.name, adapter.base.revision)
    tokenizer = load_tokenizer(place[0], place[1], **languages_of(settings))
    engine = TorchEngine(name, adapter.model, tokenizer, has_adapter=True, adapter=peft_name)
    return _predictor(engine, adapter.base, settings)


def predictor_in_training(
    base: LoadedBase,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: InputSettings,
) -> Predictor:
    """Returns what answers with an adapter that is being trained on data of these settings."""
    # PEFT's model; a whole one that trains has no adapter to switch off.
    adapted = hasattr(model, "disable_adapter")
    engine = TorchEngine(base.name, model, tokenizer, has_adapter=adapted)
    return _predictor(engine, base, _for_answers(settings))


def _exported(name: str, folder: Path, dtype: str) -> Predictor:
    manifest = ExportManifest.read(check_folder(folder))
    where = str(ExportManifest.path(folder))
    runtime, precision = manifest.export.format, manifest.export.precision
    if runtime not in ENGINES:
        raise UsageError(
            f"{name} is an export for '{runtime:.40}', which this version does not run"
        )
    if dtype not in ("auto", precision):
        raise UsageError(
            f"{name} was exported in {precision}, so it cannot be loaded in {dtype}",
            hint="leave model.dtype away, or export it again with another --precision",
        )
    verify(folder, manifest.files, hint=manifest.hint)
    settings = input_settings(manifest.input, where=where)
    tokenizer = load_tokenizer(str(folder), None, **languages_of(settings))
    engine = ENGINES[runtime](folder, tokenizer, manifest)
    rows, positions = len(engine.vocabulary()), manifest.positions
    return Predictor(name, engine, tokenizer, settings, max_positions=positions, rows=rows)


def _predictor(engine: TorchEngine, base: LoadedBase, settings: InputSettings) -> Predictor:
    begin_answers(engine.model, **first_ids(engine.tokenizer))
    return Predictor(
        engine.name,
        engine,
        engine.tokenizer,
        settings,
        max_positions=base.family.max_positions(base.model.config),
        rows=len(engine.model.get_input_embeddings().weight),
        own_decoding=own_decoding(engine.model.generation_config),
    )


def input_settings(values: object, *, where: str) -> InputSettings:
    """Reads a manifest's ``input`` entry for answering: no answer drops its source, and of a
    dialogue the newest turns are kept.

    Raises:
        DataError: a value of the wrong type or out of range, or a template that is refused.
    """
    read = checked(AdapterManifest, {"input": values}, Path(where)).input
    check_recorded(read.template, where=where)
    return _for_answers(read)


def _for_answers(read: InputSettings) -> InputSettings:
    left = read.truncate_source == "left" or read.format in DIALOGUES
    return read.model_copy(update={"truncate_source": "left" if left else "right"})
