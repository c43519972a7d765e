"""Adapter folders in PEFT's format: written without local paths, and read with every file checked
against the base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from lora_s2s.errors import DataError, SetupError, UsageError
from lora_s2s.files import read_json, write_json
from lora_s2s.hub import (
    ADAPTER_CONFIG,
    AN_ADAPTER,
    CONVERT,
    adapters_inside,
    check_folder,
    check_is_folder,
    foreign_weights,
    is_folder,
    is_local,
    is_trained,
    locate_model,
    no_adapter,
)
from lora_s2s.lora import token_rows
from lora_s2s.lora.foreign import file_names, selected, settled_values
from lora_s2s.lora.inject import START, check_base, wrap
from lora_s2s.lora.schema import MERGE_IN_PEFT, AdapterSettings, adapter_settings
from lora_s2s.lora.targets import Targets, adaptable
from lora_s2s.models.loading import LoadedBase, load_base, quiet
from lora_s2s.models.quantized import skeleton
from lora_s2s.models.sharded import copy_whole
from lora_s2s.models.weights import (
    finite_weight,
    misfit,
    opened,
    shapes,
    weights_hash,
    write_weights,
)
from lora_s2s.records import AdapterManifest, Base, verify

CONFIG = ADAPTER_CONFIG
WEIGHTS = "adapter_model.safetensors"
ONLY = "default"
"""PEFT's name for a model's only adapter."""
# Parts of the names of weights that belong to the base: grown embeddings, a trained head, biases.
_OF_BASE = (".embed_tokens.", ".shared.", ".lm_head.", ".base_layer.", ".modules_to_save.", ".bias")


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter on its base, in evaluation mode, with nothing trainable.

    Attributes:
        manifest: empty for an adapter made elsewhere.
        settings: its config, checked.
    """

    model: PeftModel = field(repr=False)
    base: LoadedBase
    manifest: AdapterManifest = field(repr=False)
    folder: Path
    settings: AdapterSettings


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter's config."""
    return (folder / CONFIG).is_file()


def adapter_state(model: nn.Module, adapter: str = ONLY) -> dict[str, Tensor]:
    """Returns an adapter's weights, which share the model's memory; without an adapter, all
    weights that train.

    The names are those in ``adapter_model.safetensors``, except for trained token rows.
    """
    if not isinstance(model, PeftModel):
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return {**_without_tokens(model, adapter), **token_rows.changes(model)}


def _without_tokens(model: nn.Module, adapter: str = ONLY) -> dict[str, Tensor]:
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    return {name: tensor for name, tensor in state.items() if ".token_rows." not in name}


def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor], adapter: str = ONLY) -> None:
    """Copies weights into an adapter of the model.

    Raises:
        DataError: names or shapes differ from the model's.
    """
    live = adapter_state(model, adapter)
    expected, given = (
        {name: tuple(t.shape) for name, t in tensors.items()} for tensors in (live, state)
    )
    _check_shapes(expected, given, where=None)
    with torch.no_grad():
        for name, tensor in live.items():
            copy_whole(tensor, state[name])


def save_adapter(model: PeftModel, out: Path) -> None:
    """Writes ``adapter_config.json`` and ``adapter_model.safetensors``, which plain PEFT loads too.

    The base is recorded by the name the user gave it, never by its path on this machine.

    Args:
        out: an existing folder.
    """
    content = config_content(model.peft_config[ONLY])
    weights = {
        name: tensor.detach().float().cpu() for name, tensor in _without_tokens(model).items()
    }
    if start := getattr(model, START, None):
        weights = _as_plain_lora(content, weights, start)
    ids, rows = token_rows.to_save(model)
    if ids:
        content[token_rows.KEY] = ids
    weights.update(rows)
    write_files(out, content, weights)


def config_content(config: PeftConfig) -> dict[str, Any]:
    """Returns what ``adapter_config.json`` holds of PEFT's config."""
    content: dict[str, Any] = config.to_dict()
    content.update(peft_type=config.peft_type.value, task_type="SEQ_2_SEQ_LM", inference_mode=True)
    return content


def write_files(out: Path, content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Writes an adapter's config and weights into an existing folder."""
    # PEFT keeps names in sets, whose order changes from run to run.
    listed = {key: sorted(x) if isinstance(x, set) else x for key, x in content.items()}
    write_json(out / CONFIG, dict(sorted(listed.items())))
    write_weights(out / WEIGHTS, {name: tensor.contiguous() for name, tensor in weights.items()})


def _as_plain_lora(
    content: dict[str, Any], weights: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns B A - B0 A0 as one product, [B, -B0] [A; A0], and doubles rank and alpha in the
    config.
    """
    for key in ("r", "lora_alpha"):
        content[key] *= 2
    for key in ("rank_pattern", "alpha_pattern"):
        content[key] = {name: 2 * value for name, value in content[key].items()}
    content["init_lora_weights"] = True
    return {
        name: torch.cat([tensor, -start[name]], dim=1)
        if ".lora_B." in name
        else torch.cat([tensor, start[name]])
        for name, tensor in weights.items()
    }


def load_adapter(
    folder: Path | str,
    *,
    base: LoadedBase | None = None,
    dtype: str = "auto",
    quantization: str | None = None,
    device: str | torch.device | None = None,
    base_override: str | None = None,
) -> LoadedAdapter:
    """Loads an adapter folder, ours or plain PEFT's, onto its base.

    Args:
        base: a loaded base to use; None loads ``base_override``, or the base that the manifest or
            the config names.
        quantization: of the base that is loaded; None for what the adapter was trained on.

    Raises:
        DataError: not an adapter, its config is refused, it was trained on another base, its
            weights are not finite or not exactly those that this base needs, or a file differs from
            the manifest's hash.
        UsageError, SetupError: the base cannot be loaded, or the adapter's method does not support
            its quantization.
    """
    folder = Path(folder)
    settings, manifest = read_adapter(folder)
    trained_on = manifest.base
    if base is None:
        name = base_override or trained_on.name or settings.base
        if not name:
            raise DataError("the adapter names no base", hint="--base NAME", where=str(folder))
        revision = None if base_override else trained_on.revision or settings.revision
        if not base_override:
            check_followed(trained_on, name, revision, folder)
        # Hashed before it is loaded, so that a wrong base is reported at once.
        check_trained_on(trained_on, name, weights_hash(locate_model(name, revision)), folder)
        stored = quantization or trained_on.quantization or "none"
        base = _load_base(
            name,
            revision=revision,
            dtype=dtype,
            quantization=stored,
            device=device,
            skip_quantization=trained_on.skip_quantization or (),
        )
    else:
        check_trained_on(trained_on, base.name, base.weights_sha256, folder)
    check_base(settings.method, settings.method.config.__name__.removesuffix("Config"), base)
    if problem := token_rows.problem(base, settings.train_tokens):
        raise DataError(problem, where=str(folder / CONFIG))
    config, state = checked_weights(folder, settings, base)
    rows = {name: state.pop(name) for name in token_rows.saved_shapes(base, settings.train_tokens)}
    model = wrap(base, config())
    fill(model, state, folder)
    token_rows.add(base.model, settings.train_tokens, rows)
    for name, tensor in token_rows.changes(model).items():
        finite_weight(name, tensor, folder / WEIGHTS)
    model.requires_grad_(False)
    return LoadedAdapter(model.eval(), base, manifest, folder, settings)


def checked_weights(
    folder: Path, settings: AdapterSettings, base: LoadedBase
) -> tuple[Callable[[], PeftConfig], dict[str, Tensor]]:
    """Returns a function that builds PEFT's config, and exactly the weights that this config needs.

    Raises:
        DataError: the file's names, shapes or values do not fit.
    """
    shapes_of = shapes([folder / WEIGHTS])
    config = _config(settings, base, shapes_of, folder)
    tokens = token_rows.saved_shapes(base, settings.train_tokens)
    return config, _weights(folder, {**_expected(config(), base, folder), **tokens}, shapes_of)


def fill(model: PeftModel, state: Mapping[str, Tensor], folder: Path, adapter: str = ONLY) -> None:
    """Copies checked weights into an adapter of the model.

    Raises:
        DataError: one is not finite in the adapter's dtype.
    """
    formats = {name: tensor.dtype for name, tensor in adapter_state(model, adapter).items()}
    finite = {
        name: finite_weight(name, tensor, folder / WEIGHTS, formats.get(name))
        for name, tensor in state.items()
    }
    load_adapter_state(model, finite, adapter)


def check_followed(trained_on: Base, name: str, revision: str | None, folder: Path) -> None:
    """Refuses a base that only an untrusted folder names: nothing is downloaded, and no folder is
    loaded without the hash of its weights.

    Raises:
        DataError: it is refused.
    """
    if not is_local(name, revision):
        problem = (
            "which is not on this machine; a base that only the adapter names is not downloaded"
        )
    elif is_folder(name) and trained_on.weights_sha256 is None:
        problem = "a folder, and does not say which weights it holds"
    else:
        return
    hint = f"if that is the base you want: --base {name}"
    raise DataError(f"the adapter names the base '{name}', {problem}", hint=hint, where=str(folder))


def _load_base(name: str, **asked: Any) -> LoadedBase:
    try:
        return load_base(name, **asked)
    except SetupError as error:
        if "bitsandbytes" not in error.message:
            raise
        hint = f"{error.hint}; or load the adapter with quantization none, on the unquantized base"
        raise SetupError(error.message, hint=hint, where=error.where) from error


def read_adapter(folder: Path) -> tuple[AdapterSettings, AdapterManifest]:
    """Returns a folder's checked config and manifest, its files verified.

    Raises:
        DataError: it is not an adapter, or it is refused.
    """
    check_is_folder(folder)
    check_folder(folder)
    if not is_adapter(folder) and is_trained(folder):
        problem = f"{folder} is a whole model (lora.method=full), not an adapter"
        raise DataError(problem, hint="use it as it is: it loads without a base")
    if not is_adapter(folder) and adapters_inside(folder):
        raise no_adapter(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            more = foreign_weights(folder) if name == WEIGHTS else ""
            hint = CONVERT if more else AN_ADAPTER
            raise DataError(
                f"not an adapter folder: {name} is missing{more}", hint=hint, where=str(folder)
            )
    settings = adapter_settings(read_json(folder / CONFIG), where=str(folder / CONFIG))
    manifest = AdapterManifest.read(folder)
    verify(folder, manifest.files)
    return settings, manifest


def check_trained_on(
    trained_on: Base, name: str, weights_sha256: str, folder: Path, *, what: str = "the adapter"
) -> None:
    """Checks that the adapter, or ``what`` is in the folder, was trained on a base with these
    weights.

    Raises:
        DataError: it was trained on others.
    """
    expected = trained_on.weights_sha256
    if expected is not None and expected != weights_sha256:
        raise DataError(
            f"{what} was trained on {trained_on.name or 'another base'} (weights "
            f"{expected[:12]}); this is {name} (weights {weights_sha256[:12]})",
            hint="name the base it was trained on (--base NAME), or train again on this one",
            where=str(folder),
        )


def _config(
    settings: AdapterSettings, base: LoadedBase, found: Mapping[str, tuple[int, ...]], folder: Path
) -> Callable[[], PeftConfig]:
    """Returns a function that builds PEFT's config, since PEFT changes the one it is given."""
    where = str(folder / CONFIG)
    if settings.bias != "none" and any(
        name.endswith(".bias") for name, _ in base.model.named_parameters()
    ):
        problem = f"the adapter's bias is '{settings.bias}': it holds biases of {base.name} itself"
        raise DataError(problem, hint=MERGE_IN_PEFT, where=where)
    chosen = selected(settings, adaptable(base.family, base.model), found, where=where)
    spec = settings.target_modules
    if spec is None or settings.excluded or settings.layers:
        spec = list(chosen)
    values = settled_values(settings, chosen, found, where=where)

    def build() -> PeftConfig:
        try:
            return settings.method.build(Targets(spec, chosen), values)
        except UsageError as error:
            raise DataError(error.message, where=where) from error

    return build


def without_weights(base: LoadedBase) -> LoadedBase:
    """Returns a base of the same names and shapes, without an adapter or memory for weights."""
    empty = skeleton(base.family, base.model.config, dtype=base.dtype)
    return replace(base, model=empty, residual_shift=0)


def _expected(config: PeftConfig, base: LoadedBase, folder: Path) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the weights that PEFT creates for the config on this base."""
    with quiet():
        bare = without_weights(base)
    try:
        model = wrap(bare, config, empty=True)
    except UsageError as error:
        raise DataError(error.message, where=str(folder / CONFIG)) from error
    return {name: tuple(tensor.shape) for name, tensor in adapter_state(model).items()}


def _weights(
    folder: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    names = file_names(expected, found)
    _check_shapes(
        expected, {name: found[there] for name, there in names.items()}, where=str(folder / WEIGHTS)
    )
    with opened(folder / WEIGHTS) as tensors:
        return {
            name: finite_weight(name, tensors.get_tensor(names[name]), folder / WEIGHTS)
            for name in expected
        }


def _check_shapes(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    *,
    where: str | None,
) -> None:
    if problem := misfit(expected, found, foreign="does not belong in an adapter for this base"):
        of_base = [
            name
            for name in found
            if name not in expected and any(part in name for part in _OF_BASE)
        ]
        hint = f"it holds weights of the base itself: {MERGE_IN_PEFT}" if of_base else None
        raise DataError(
            f"the adapter's weights do not fit the base: {problem}", hint=hint, where=where
        )
