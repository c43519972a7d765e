"""A model that is ready to answer: an adapter folder, a merged or exported folder, a hub name, or
the bundled base.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from lora_s2s.documents import checked
from lora_s2s.errors import UsageError
from lora_s2s.examples.shapes import DIALOGUES
from lora_s2s.examples.template import check_recorded
from lora_s2s.hub import adapters_inside, check_folder, no_adapter
from lora_s2s.inference import ct2_engine
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.torch_engine import TorchEngine
from lora_s2s.lora.adapter import is_adapter, load_adapter
from lora_s2s.models.common import begin_answers
from lora_s2s.models.generation import not_used
from lora_s2s.models.loading import LoadedBase, load_base
from lora_s2s.records import (
    AdapterManifest,
    ExportManifest,
    InputSettings,
    ModelManifest,
    is_export,
    verify,
)
from lora_s2s.tokens.loading import LANGUAGES, load_tokenizer
from lora_s2s.tokens.special_tokens import first_ids

# How an exported folder is opened, by its format.
ENGINES = {"ct2": ct2_engine.open_folder}


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
        settings = input_settings(adapter.manifest.input, where=str(AdapterManifest.path(folder)))
        # Adapters made by plain PEFT come without a tokenizer; theirs is the base's.
        own = (folder / "tokenizer_config.json").is_file()
        place = (str(folder), None) if own else (adapter.base.name, adapter.base.revision)
        return _predictor(name, adapter.model, adapter.base, place, settings, has_adapter=True)
    if base is not None:
        raise UsageError(
            f"{name} is not an adapter, so it takes no other base", hint="leave --base away"
        )
    if is_export(folder):
        return _exported(name, folder, dtype)
    if folder.is_dir() and not (folder / "config.json").is_file() and adapters_inside(folder):
        raise no_adapter(folder)
    model = load_base(name, dtype=dtype, device=device)
    manifest = ModelManifest.read(model.path)
    settings = input_settings(manifest.input, where=str(ModelManifest.path(model.path)))
    predictor = _predictor(name, model.model, model, (name, None), settings)
    # The settings of a merged folder are those that it was scored with.
    return replace(predictor, not_used="") if manifest.decoding else predictor


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
    languages = {key: getattr(settings, key) for key in LANGUAGES}
    tokenizer = load_tokenizer(str(folder), None, **languages)
    engine = ENGINES[runtime](folder, tokenizer, manifest)
    rows, positions = len(engine.vocabulary()), manifest.positions
    return Predictor(name, engine, tokenizer, settings, max_positions=positions, rows=rows)


def _predictor(
    name: str,
    model: PreTrainedModel,
    base: LoadedBase,
    place: tuple[str, str | None],
    settings: InputSettings,
    *,
    has_adapter: bool = False,
) -> Predictor:
    tokenizer = load_tokenizer(*place, **{key: getattr(settings, key) for key in LANGUAGES})
    begin_answers(model, **first_ids(tokenizer))
    most = base.family.max_positions(base.model.config)
    rows = len(model.get_input_embeddings().weight)
    return Predictor(
        name,
        TorchEngine(name, model, tokenizer, has_adapter=has_adapter),
        tokenizer,
        settings,
        max_positions=most,
        rows=rows,
        not_used=not_used(model.generation_config),
    )


def input_settings(values: object, *, where: str) -> InputSettings:
    """Reads a manifest's ``input`` entry for answering: no answer drops its source, and of a
    dialogue the newest turns are kept.

    Raises:
        DataError: a value of the wrong type or out of range, or a template that is refused.
    """
    read = checked(AdapterManifest, {"input": values}, Path(where)).input
    check_recorded(read.template, where=where)
    left = read.truncate_source == "left" or read.format in DIALOGUES
    return read.model_copy(update={"truncate_source": "left" if left else "right"})
