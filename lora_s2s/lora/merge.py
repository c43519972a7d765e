"""Fold an adapter into its base, write the whole model, and measure on real inputs what changed.

An adapter trained on a quantized base fits those values, not the checkpoint's: it can be folded
into either, and both are measured. What is written is never quantized.

B batch, S source length, T target length, N target positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import GenerationConfig

from lora_s2s import probe
from lora_s2s.errors import RunError, UsageError, nearest
from lora_s2s.files import require_space, sha256_file, write_text
from lora_s2s.lora.adapter import WEIGHTS, LoadedAdapter, load_adapter
from lora_s2s.models.common import begin_answers
from lora_s2s.models.generation import (
    IN_CONFIG,
    answer_ids,
    decoding_config,
    not_used,
    only,
    plain_answers,
)
from lora_s2s.models.loading import load_base, save_model
from lora_s2s.models.logits import check_logits, finite_logits
from lora_s2s.models.precision import DTYPES
from lora_s2s.models.quantized import dequantized_weight, is_quantized
from lora_s2s.models.t5 import loading_note
from lora_s2s.outputs import whole_folder
from lora_s2s.records import described, write
from lora_s2s.tokens.loading import LANGUAGES, load_tokenizer
from lora_s2s.tokens.special_tokens import first_ids
from lora_s2s.tokens.tokenise import encode_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ONTO = ("original", "dequantized")

_MOST_SOURCE_TOKENS = 512
_LONGEST_ANSWER = 64
_ROWS = 16
# Float32 products in another order differ by about 1e-6 of a logit; this much means another
# function.
_FLOAT32_TOLERANCE = 1e-3


@dataclass(frozen=True)
class MergeReport:
    """What merging changed, measured on the model read back from the folder against the adapter on
    its base.

    Attributes:
        dtype: the written weights'; the reference is the base as it was in training (quantized or
        not), in float32. max_logit_difference, mean_logit_difference: absolute, over all logits of
        all target positions.
        top1_changed: share of target positions whose most likely token is another.
        positions: number of target positions compared.
        other: the same measures of the base that was not chosen, in float32, under its name; empty
            where the base was not quantized.
        answers: number of answers compared: the adapter's, decoded as it was scored, and those that
            plain transformers gives with the written folder alone.
        answers_changed: share of those that differ.
        not_used: settings of the base's generation config that the written folder leaves out; empty
            for none.
        note: what versions of transformers compute something else; None where all agree.
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
    max_new_tokens: int = 128,
    num_beams: int = 1,
) -> MergeReport:
    """Writes the merged model's folder, whole or not at all; the base stays as it is.

    It decodes as the adapter does: of the base's generation settings only the ids of starts, ends
    and languages stay.

    Args:
        out: must not exist.
        onto: ``original``: the base's own weights; ``dequantized``: the values it had in training,
            in 4 or 8 bits.
        dtype: of the written weights; None takes what the adapter was trained in, but float32 for
            float16, which only this package's loading keeps from overflowing, and where it does not
            say.
        probe_texts: rendered sources; the adapter's answers to them are what both models are
        compared on. max_new_tokens, num_beams: how the adapter was scored, and how the written
        model decodes.

    Raises:
        UsageError: ``out`` exists, an unknown ``onto`` or ``dtype``, nothing to dequantize, or no
            probe texts.
        DataError: the adapter is refused.
        RunError: the written model computes something else; nothing is left at ``out``.
    """
    _check_arguments(onto, dtype, probe_texts)
    with whole_folder(Path(out)) as staged:
        adapter = load_adapter(folder, dtype="float32", base_override=base_override)
        quantized, device, made_from = (
            adapter.base.quantization != "none",
            adapter.base.device,
            _made_from(adapter),
        )
        if onto == "dequantized" and not quantized:
            hint = "leave --onto away"
            raise UsageError(
                "the adapter was not trained on a quantized base: nothing to dequantize", hint=hint
            )
        written = dtype or _dtype_of(adapter)
        tokenizer = _tokenizer(adapter)
        begin_answers(adapter.model, **first_ids(tokenizer))
        base_model, unused = adapter.base.model, not_used(adapter.base.model.generation_config)
        generation = decoding_config(
            base_model,
            tokenizer,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            positions=_max_positions(adapter),
        )
        probes = list(_probes(adapter, tokenizer, generation, probe_texts))
        rest = [base for base in ONTO if quantized and base != onto]
        other = {base: _measured(_on_whole_base(adapter, base).model, probes) for base in rest}
        folded, tokenizer_from = folded_state(adapter, onto), _own_tokenizer(adapter)
        require_space(
            staged.parent,
            sum(weight.numel() for weight in folded.values()) * DTYPES[written].itemsize,
        )
        save_model(
            folded,
            adapter.base,
            staged,
            dtype=DTYPES[written],
            tokenizer_from=tokenizer_from,
            generation=generation,
            not_in_config=IN_CONFIG,
        )
        probe.remember(staged)
        note = loading_note(base_model.config)
        del folded, base_model
        del adapter  # two whole models need not fit
        measures = _measured(load_base(str(staged), dtype=written, device=device).model, probes)
        report = MergeReport(
            str(out),
            onto,
            written,
            **measures,
            positions=_positions(probes),
            other=other,
            answers=len(probe_texts),
            answers_changed=_answers_changed(staged, probes),
            not_used=unused,
            note=note,
        )
        _check_report(
            report, exact=written == "float32" and (onto == "dequantized" or not quantized)
        )
        check = {key: value for key, value in asdict(report).items() if key != "out"}
        decoding = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
        contents = {
            **made_from,
            "decoding": decoding,
            "check": check,
            "files": described(staged.iterdir()),
        }
        write(staged, contents)
        write_text(staged / "README.md", _readme(report))
    return report


def folded_state(adapter: LoadedAdapter, onto: str = "original") -> dict[str, Tensor]:
    """Returns the base's weights with the adapter folded in, float32.

    Names are the plain model's, as if there had never been an adapter. An unquantized base's own
    weights are changed: the adapter is of no further use.
    """
    whole = adapter if adapter.base.quantization == "none" else _on_whole_base(adapter, onto)
    tuned = []
    # Under every name: rows of tokens are part of all modules that share a matrix; merging again
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


def _on_whole_base(adapter: LoadedAdapter, onto: str) -> LoadedAdapter:
    """Returns the adapter on an unquantized float32 base: the checkpoint's values, or those it had
    in training.
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
            f"--onto {onto} is unknown{nearest(onto, ONTO)}", hint=f"--onto {' or '.join(ONTO)}"
        )
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(
            f"a model cannot be merged as '{dtype}'", hint=f"--dtype {' or '.join(DTYPES)}"
        )
    if not probe_texts:
        raise UsageError(
            "a merge is checked on real inputs, and there are none", hint="give a file with sources"
        )


@dataclass(frozen=True)
class _Probe:
    """A batch of sources, the adapter's answers as decoder inputs and as ids, its logits at their
    real positions.
    """

    inputs: dict[str, Tensor]
    answers: list[list[int]]
    inputs_BT: Tensor
    real_BT: Tensor
    logits_NV: Tensor


def _tokenizer(adapter: LoadedAdapter) -> PreTrainedTokenizerBase:
    languages = {key: getattr(adapter.manifest.input, key) for key in LANGUAGES}
    own = _own_tokenizer(adapter)
    place = (adapter.base.name, adapter.base.revision) if own is None else (str(own), None)
    return load_tokenizer(*place, **languages)


def _probes(
    adapter: LoadedAdapter,
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig,
    texts: Sequence[str],
) -> Iterator[_Probe]:
    answer: Any = adapter.model.generate
    longest = min(_LONGEST_ANSWER, generation.max_new_tokens)
    with torch.inference_mode(), only(adapter.model, generation):
        for inputs in _batches(adapter, tokenizer, texts):
            # The start id comes first.
            checks = finite_logits(str(adapter.folder))
            inputs_BT = answer(**inputs, max_new_tokens=longest, logits_processor=checks)
            real_BT = (inputs_BT != tokenizer.pad_token_id) & (inputs_BT != tokenizer.eos_token_id)
            real_BT[:, 0] = True  # the start id, which may be the padding id
            logits_BTV = adapter.model(**inputs, decoder_input_ids=inputs_BT).logits
            check_logits(logits_BTV, model=str(adapter.folder))
            answers = answer_ids(inputs_BT, tokenizer.eos_token_id)
            yield _Probe(inputs, answers, inputs_BT, real_BT, logits_BTV[real_BT].float())


def _answers_changed(folder: Path, probes: Sequence[_Probe]) -> float:
    theirs = plain_answers(folder, [probe.inputs for probe in probes], most=_LONGEST_ANSWER)
    pairs = [
        (own, other)
        for probe, rows in zip(probes, theirs, strict=True)
        for own, other in zip(probe.answers, rows, strict=True)
    ]
    return sum(own != other for own, other in pairs) / len(pairs)


def _own_tokenizer(adapter: LoadedAdapter) -> Path | None:
    """Returns the adapter's folder where it holds a tokenizer that may know more tokens than the
    base's.
    """
    trained = adapter.manifest.input
    more = adapter.settings.train_tokens or trained.carried or trained.special_tokens
    return adapter.folder if more and (adapter.folder / "tokenizer_config.json").is_file() else None


def _max_positions(adapter: LoadedAdapter) -> int | None:
    return adapter.base.family.max_positions(adapter.base.model.config)


def _positions(probes: Sequence[_Probe]) -> int:
    return sum(len(probe.logits_NV) for probe in probes)


def _measured(model: PreTrainedModel, probes: Sequence[_Probe]) -> dict[str, float]:
    """Returns the report's three measures of a model against the adapter's logits."""
    largest, total, changed, count = 0.0, 0.0, 0, 0
    with torch.inference_mode():
        for probe in probes:
            after_NV = (
                model(**probe.inputs, decoder_input_ids=probe.inputs_BT)
                .logits[probe.real_BT]
                .float()
            )
            difference_NV = (probe.logits_NV - after_NV).abs()
            # A NaN must not vanish in a maximum.
            largest = max(largest, float(difference_NV.max().nan_to_num(nan=float("inf"))))
            total += float(difference_NV.sum(dtype=torch.float64))
            count += difference_NV.numel()
            changed += int((probe.logits_NV.argmax(dim=-1) != after_NV.argmax(dim=-1)).sum())
    return {
        "max_logit_difference": largest,
        "mean_logit_difference": total / count,
        "top1_changed": changed / _positions(probes),
    }


def _batches(
    adapter: LoadedAdapter, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    """Yields ``input_ids`` and ``attention_mask``, (B, S) each, sources of like length together."""
    most = min(adapter.manifest.input.max_source_tokens, _MOST_SOURCE_TOKENS)
    most = min(most, _max_positions(adapter) or most)
    rows = sorted(
        (
            encode_source(text, tokenizer, max_source_tokens=most, truncate_source="right")
            for text in texts
        ),
        key=len,
    )
    for start in range(0, len(rows), _ROWS):
        batch = tokenizer.pad({"input_ids": rows[start : start + _ROWS]}, return_tensors="pt")
        yield {
            name: batch[name].to(adapter.base.device) for name in ("input_ids", "attention_mask")
        }


def _check_report(report: MergeReport, *, exact: bool) -> None:
    limit = _FLOAT32_TOLERANCE if exact else float("inf")
    if not report.max_logit_difference < limit:
        raise RunError(
            f"the merged model differs from the adapter by {report.max_logit_difference:.3g} in "
            f"its logits ({report.top1_changed:.2%} of positions changed); nothing was written",
            hint="report this with the versions of torch and transformers",
        )


def _made_from(adapter: LoadedAdapter) -> dict[str, object]:
    merged = {
        "name": adapter.folder.resolve().name,
        "weights_sha256": sha256_file(adapter.folder / WEIGHTS),
    }
    base = {
        key: getattr(adapter.base, key)
        for key in ("name", "revision", "weights_sha256", "quantization")
    }
    trained_with = adapter.manifest.content.get("input", {})
    return {"format": 1, "merged": merged, "base": base, "input": trained_with}


def _readme(report: MergeReport) -> str:
    return (
        "# A merged model\n\n"
        "An encoder-decoder model with a LoRA adapter folded into its weights, made by `lora-s2s "
        "merge`. What it was\n"
        "made from is in `manifest.json`. It needs no adapter and no special package:\n\n"
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
        "plain transformers are other than the adapter's."
        + (f" {report.note[:1].upper()}{report.note[1:]}." if report.note else "")
        + "\n"
    )
