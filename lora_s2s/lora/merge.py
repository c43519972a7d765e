"""Merges an adapter into its base, writes the model, and measures on real inputs what changed.

An adapter trained on a quantized base fits the quantized values, not the checkpoint's: it can be
merged into either, and both are measured. The written model is never quantized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lora_s2s import probe
from lora_s2s.errors import RunError, UsageError, nearest
from lora_s2s.files import described, require_space, sha256_file, write_text
from lora_s2s.lora.adapter import WEIGHTS, LoadedAdapter, load_adapter
from lora_s2s.lora.compare import (
    Probe,
    answers_changed,
    longest_source,
    measured,
    position_count,
    probes_of,
)
from lora_s2s.models.common import begin_answers
from lora_s2s.models.generation import IN_CONFIG, not_used, written_config
from lora_s2s.models.loading import load_base
from lora_s2s.models.precision import DTYPES
from lora_s2s.models.quantized import dequantized_weight, is_quantized
from lora_s2s.models.saving import save_model, save_tokenizer
from lora_s2s.models.t5 import loading_note
from lora_s2s.outputs import whole_folder
from lora_s2s.records import write
from lora_s2s.tokens.loading import languages_of, load_tokenizer, plain_tokenizer
from lora_s2s.tokens.special_tokens import alike, end_note, first_ids

_GREEDY = {"max_new_tokens": 128, "num_beams": 1}
ONTO = ("original", "dequantized")
# What a merged model's card shows of an evaluation of its adapter.
_FIGURES = ("n", "metrics", "baseline", "difference")

# Float32 sums in another order change logits by about 1e-6; this much means another function.
_FLOAT32_TOLERANCE = 1e-3


@dataclass(frozen=True)
class MergeReport:
    """What merging changed, measured on the model read back from the folder against the adapter on
    its base.

    Attributes:
        dtype: of the written weights. The reference is the base as it was in training (quantized or
            not), in float32.
        max_logit_difference, mean_logit_difference: absolute, over all logits of all target
            positions.
        top1_changed: share of target positions whose most likely token differs.
        positions: number of target positions compared.
        other: the same measures for the base that was not chosen, in float32, under its name; empty
            if the base was not quantized.
        answers: number of answers compared: the adapter's, decoded as it was scored, with those of
            plain transformers from the written folder and its tokenizer.
        answers_changed: share of those that differ.
        not_used: settings of the base's generation config that the written folder omits; empty if
            there are none.
        note: which versions of transformers compute something else, and what plain transformers
            must be given; None if there is nothing to note.
    """

    out: str
    onto: str
    dtype: str
    max_logit_difference: float
    mean_logit_difference: float
    top1_changed: float
    positions: int
    other: dict[str, dict[str, float]] = field(default_factory=dict)
    answers: int = 0
    answers_changed: float = 0.0
    not_used: str = ""
    note: str | None = None


def merge_adapter(
    folder: Path | str,
    out: Path | str,
    *,
    onto: str = "original",
    dtype: str | None = None,
    base_override: str | None = None,
    probe_texts: Sequence[str],
    decoding: Mapping[str, Any] = _GREEDY,
) -> MergeReport:
    """Writes the merged model's folder, complete or not at all; the base stays as it is.

    The model decodes as the adapter does: of the base's generation settings only the start, end and
    language ids are kept.

    Args:
        out: must not exist.
        onto: ``original``, the checkpoint's weights, or ``dequantized``, the values that the base
            had in training, in 4 or 8 bits.
        dtype: of the written weights; None for the dtype of training, but float32 if that is
            unknown or float16, which only this package keeps from overflowing.
        probe_texts: rendered sources; both models are compared on the adapter's answers to them.
        decoding: how the adapter was scored, and how the written model decodes: ``max_new_tokens``,
            ``num_beams``, and whatever else is not at its default.

    Raises:
        UsageError: ``out`` exists, an unknown ``onto`` or ``dtype``, nothing to dequantize, or no
            probe texts.
        DataError: the adapter is refused.
        RunError: the written model computes something else; nothing remains at ``out``.
    """
    _check_arguments(onto, dtype, probe_texts)
    with whole_folder(Path(out)) as staged:
        # The adapter and its base are freed with this call's frame: two models need not fit.
        made = _write_model(
            load_adapter(folder, dtype="float32", base_override=base_override),
            staged,
            onto=onto,
            dtype=dtype,
            decoding=decoding,
            probe_texts=probe_texts,
        )
        merged = load_base(str(staged), dtype=made.dtype, device=made.device)
        report = MergeReport(
            str(out),
            onto,
            made.dtype,
            **measured(merged.model, made.probes),
            positions=position_count(made.probes),
            other=made.other,
            answers=len(probe_texts),
            answers_changed=answers_changed(
                staged, made.probes, max_source_tokens=made.max_source_tokens
            ),
            not_used=made.not_used,
            note=made.note,
        )
        _check_report(report, exact=made.exact)
        check = {key: value for key, value in asdict(report).items() if key != "out"}
        files = described(staged.iterdir())
        write(staged, {**made.origin, "decoding": dict(decoding), "check": check, "files": files})
        write_text(staged / "README.md", _readme(report))
    return report


@dataclass(frozen=True)
class _Written:
    """What is kept of an adapter once it is merged and freed; ``exact``: the merged model should
    compute the same up to rounding.
    """

    origin: dict[str, object]
    device: torch.device
    dtype: str
    exact: bool
    probes: list[Probe]
    other: dict[str, dict[str, float]]
    not_used: str
    note: str | None
    max_source_tokens: int


def _write_model(
    adapter: LoadedAdapter,
    staged: Path,
    *,
    onto: str,
    dtype: str | None,
    decoding: Mapping[str, Any],
    probe_texts: Sequence[str],
) -> _Written:
    """Measures the adapter, merges it and writes the model's files."""
    base, quantized = adapter.base, adapter.base.quantization != "none"
    if onto == "dequantized" and not quantized:
        problem = "the adapter was not trained on a quantized base: nothing to dequantize"
        raise UsageError(problem, hint="omit `--onto`")
    written, tokenizer = dtype or _dtype_of(adapter), _tokenizer(adapter)
    generation = _generation(adapter, tokenizer, decoding)
    unused = not_used(base.model.generation_config, decoding)
    notes = [note for note in (loading_note(base.model.config), end_note(tokenizer)) if note]
    probes = list(probes_of(adapter, tokenizer, generation, probe_texts))
    rest = [name for name in ONTO if quantized and name != onto]
    other = {name: measured(_on_unquantized_base(adapter, name).model, probes) for name in rest}
    _write_folded(adapter, staged, onto=onto, dtype=written, generation=generation)
    exact = written == "float32" and (onto == "dequantized" or not quantized)
    origin = made_from(adapter)
    return _Written(
        origin,
        base.device,
        written,
        exact,
        probes,
        other,
        unused,
        note="; ".join(notes) or None,
        max_source_tokens=longest_source(adapter),
    )


def write_whole_model(
    adapter: LoadedAdapter, out: Path, *, dtype: str, decoding: Mapping[str, Any]
) -> None:
    """Writes the files of the adapter merged into its unquantized base, without a comparison.

    The loaded adapter answers as before, from the changed weights.

    Args:
        out: an existing, empty folder.
        dtype: of the weights.
        decoding: ``max_new_tokens`` and ``num_beams`` of the written model.
    """
    generation = _generation(adapter, _tokenizer(adapter), decoding)
    _write_folded(adapter, out, onto="original", dtype=dtype, generation=generation)


def _generation(
    adapter: LoadedAdapter, tokenizer: PreTrainedTokenizerBase, decoding: Mapping[str, Any]
) -> GenerationConfig:
    model, family = adapter.base.model, adapter.base.family
    begin_answers(adapter.model, **first_ids(tokenizer))
    positions = family.max_positions(model.config)
    return written_config(model, tokenizer, decoding, positions=positions)


def _write_folded(
    adapter: LoadedAdapter, out: Path, *, onto: str, dtype: str, generation: GenerationConfig
) -> None:
    folded = folded_state(adapter, onto)
    numbers = sum(weight.numel() for weight in folded.values())
    require_space(out.parent, numbers * DTYPES[dtype].itemsize)
    save_model(
        folded,
        adapter.base,
        out,
        dtype=DTYPES[dtype],
        tokenizer_from=_own_tokenizer(adapter),
        generation=generation,
        not_in_config=IN_CONFIG,
    )
    tokenizer = _tokenizer(adapter)
    if not alike(tokenizer, plain_tokenizer(out, str(out))):
        save_tokenizer(tokenizer, out)
    probe.remember(out)


def folded_state(adapter: LoadedAdapter, onto: str = "original") -> dict[str, Tensor]:
    """Returns the base's weights with the adapter merged in, float32, by the plain model's names.

    The weights of an unquantized base are changed in place: its adapter is merged from then on.
    """
    whole = adapter if adapter.base.quantization == "none" else _on_unquantized_base(adapter, onto)
    tuned = []
    # Under every name: token rows belong to all modules that share a matrix, and merging them again
    # changes nothing.
    for name, module in whole.base.model.named_modules(remove_duplicate=False):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            tuned.append(f"{name}.")
    state: dict[str, Tensor] = {}
    for name, weight in whole.base.model.state_dict().items():
        owner = next((prefix for prefix in tuned if name.startswith(prefix)), "")
        if name.startswith(f"{owner}base_layer.") or not owner:
            state[name.replace(".base_layer.", ".")] = weight.detach()
    return state


def _on_unquantized_base(adapter: LoadedAdapter, onto: str) -> LoadedAdapter:
    """Returns the adapter on an unquantized float32 base, with the checkpoint's weights or those of
    training.
    """
    used = adapter.base
    base = load_base(used.name, revision=used.revision, dtype="float32", device=used.device)
    if onto == "dequantized":
        with torch.no_grad():
            for name, module in used.model.named_modules():
                if is_quantized(module):
                    base.model.get_submodule(name.removesuffix(".base_layer")).weight.copy_(
                        dequantized_weight(module)
                    )
    return load_adapter(adapter.folder, base=base)


def _dtype_of(adapter: LoadedAdapter) -> str:
    trained = adapter.manifest.base.dtype
    return trained if trained in DTYPES and trained != "float16" else "float32"


def _check_arguments(onto: str, dtype: str | None, probe_texts: Sequence[str]) -> None:
    if onto not in ONTO:
        raise UsageError(
            f"a model cannot be merged onto '{onto}'{nearest(onto, ONTO)}",
            hint=f"--onto {' or '.join(ONTO)}",
        )
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(
            f"a model cannot be merged as '{dtype}'", hint=f"--dtype {' or '.join(DTYPES)}"
        )
    if not probe_texts:
        raise UsageError(
            "a merge is checked on real inputs, and there are none", hint="give a file with sources"
        )


def _tokenizer(adapter: LoadedAdapter) -> PreTrainedTokenizerBase:
    languages = languages_of(adapter.manifest.input)
    folder = _own_tokenizer(adapter)
    base = adapter.base
    name, revision = (base.name, base.revision) if folder is None else (str(folder), None)
    return load_tokenizer(name, revision, **languages)


def _own_tokenizer(adapter: LoadedAdapter) -> Path | None:
    """Returns the adapter's folder if its tokenizer may have more tokens than the base's."""
    trained = adapter.manifest.input
    more = adapter.settings.train_tokens or trained.carried or trained.special_tokens
    return adapter.folder if more and (adapter.folder / "tokenizer_config.json").is_file() else None


def _check_report(report: MergeReport, *, exact: bool) -> None:
    limit = _FLOAT32_TOLERANCE if exact else float("inf")
    if not report.max_logit_difference < limit:
        raise RunError(
            f"the merged model differs from the adapter by {report.max_logit_difference:.3g} in "
            f"its logits ({report.top1_changed:.2%} of positions changed); nothing was written",
            hint="report this with the versions of torch and transformers",
        )


def made_from(adapter: LoadedAdapter) -> dict[str, object]:
    """Returns what a merged model's manifest records of its base and its adapter, with scores."""
    scores = adapter.manifest.content.get("scores")
    merged = {
        "name": adapter.folder.resolve().name,
        "weights_sha256": sha256_file(adapter.folder / WEIGHTS),
        "scores": {
            name: {key: entry[key] for key in _FIGURES if key in entry}
            for name, entry in (scores.items() if isinstance(scores, dict) else ())
        },
    }
    base = {
        key: getattr(adapter.base, key)
        for key in ("name", "revision", "weights_sha256", "quantization")
    }
    trained_with = adapter.manifest.content.get("input", {})
    made = {"format": 1, "merged": merged, "base": base, "input": trained_with}
    known = adapter.manifest.known_labels
    return made if known is None else {**made, "labels": known.model_dump()}


def _readme(report: MergeReport) -> str:
    return (
        "# A merged model\n\n"
        "An encoder-decoder model with a LoRA adapter folded into its weights, made by `lora-s2s "
        "merge`. What it was\n"
        "made from is in `manifest.json`, with the adapter's scores. It needs no adapter and no "
        "special package:\n\n"
        "    AutoModelForSeq2SeqLM.from_pretrained(FOLDER); "
        "AutoTokenizer.from_pretrained(FOLDER)\n\n"
        f"Weights: {report.dtype}, onto the {report.onto} base. Against the adapter on its base as "
        "it was in\n"
        f"training, over {report.positions} positions: largest logit difference "
        f"{report.max_logit_difference:.3g},\n"
        f"mean {report.mean_logit_difference:.3g}, most likely token changed at "
        f"{report.top1_changed:.2%}.\n\n"
        "`generate` decodes as the adapter was scored, by the settings in "
        f"`generation_config.json`: {report.answers_changed:.0%} of\n{report.answers} answers by "
        "plain transformers differ from the adapter's."
        + (f" {report.note[:1].upper()}{report.note[1:]}." if report.note else "")
        + "\n"
    )
