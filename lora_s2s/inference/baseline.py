"""The base of what answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lora_s2s.hub import is_trained
from lora_s2s.inference.predictor import Predictor
from lora_s2s.lora.adapter import check_followed, check_trained_on
from lora_s2s.models.common import begin_answers
from lora_s2s.models.loading import load_base
from lora_s2s.models.precision import dtype_name
from lora_s2s.records import ModelManifest
from lora_s2s.tokens.special_tokens import first_ids


def baseline_of(predictor: Predictor) -> Predictor:
    """Returns the base of a model: the adapter switched off, without a second copy of the weights;
    for a whole model that was trained here, the base that its manifest names.

    Raises:
        UsageError: neither is known (a merged, exported or plain model).
        DataError: the base is not on this machine, or not the one that was trained.
    """
    folder = Path(predictor.name).expanduser()
    if predictor.has_adapter or not is_trained(folder):
        return predictor.baseline()
    trained_on = ModelManifest.read(folder).base
    name, engine = trained_on.name or "", predictor.torch
    check_followed(trained_on, name, trained_on.revision, folder)
    given = {"revision": trained_on.revision, "device": engine.model.device}
    base = load_base(name, dtype=dtype_name(engine.model.dtype), **given)
    check_trained_on(trained_on, name, base.weights_sha256, folder, what="the model")
    begin_answers(base.model, **first_ids(predictor.tokenizer))
    return replace(predictor, engine=replace(engine, name=name, model=base.model))
