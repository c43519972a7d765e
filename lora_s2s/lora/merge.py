"""Fold an adapter into its base, write the whole model, and measure on real inputs what changed.

B batch, S source length, T target length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_s2s.data.tokenise import encode_source, load_tokenizer
from lora_s2s.errors import RunError, UsageError
from lora_s2s.files import sha256_file, whole_folder, write_json, write_text
from lora_s2s.lora.adapter import MANIFEST, WEIGHTS, LoadedAdapter, adapter_state, load_adapter
from lora_s2s.models.loading import load_base, save_model
from lora_s2s.models.precision import DTYPES

_MOST_SOURCE_TOKENS = 512
_LONGEST_ANSWER = 64
_ROWS = 16
# Float32 products in another order differ by about 1e-6 of a logit; this much means another function.
_FLOAT32_TOLERANCE = 1e-3


@dataclass(frozen=True)
class MergeReport:
    """What merging changed, measured on the model read back from the folder against the adapter on its base.

    Attributes:
        dtype: the written weights'; the reference is always float32.
        max_logit_difference, mean_logit_difference: absolute, over all logits of all target positions.
        top1_changed: share of target positions whose most likely token is another.
        positions: number of target positions compared.
    """

    out: str
    onto: str
    dtype: str
    max_logit_difference: float
    mean_logit_difference: float
    top1_changed: float
    positions: int


def merge_adapter(
    folder: Path | str,
    out: Path | str,
    *,
    onto: str = "original",
    dtype: str | None = None,
    base_override: str | None = None,
    probe_texts: Sequence[str],
) -> MergeReport:
    """Writes the merged model's folder, whole or not at all; the base stays as it is.

    Args:
        out: must not exist.
        onto: ``original``: the base's own weights.
        dtype: of the written weights, ``float32`` or ``bfloat16``; None takes what the adapter was trained in, and
            float32 where it does not say.
        probe_texts: rendered sources; the adapter's greedy answers to them are what both models are compared on.

    Raises:
        UsageError: ``out`` exists, an unknown ``onto`` or ``dtype``, or no probe texts.
        DataError: the adapter is refused.
        RunError: the written model computes something else; nothing is left at ``out``.
    """
    _check_arguments(onto, dtype, probe_texts)
    with whole_folder(Path(out)) as staged:
        adapter = load_adapter(folder, dtype="float32", base_override=base_override)
        trained = str(adapter.manifest.get("base", {}).get("dtype"))
        written = dtype or (trained if trained in DTYPES else "float32")
        save_model(folded_state(adapter), adapter.base, staged, dtype=DTYPES[written])
        report = _compare(adapter, staged, probe_texts, out=str(out), onto=onto, dtype=written)
        _check_report(report)
        write_json(staged / MANIFEST, _manifest(adapter, report))
        write_text(staged / "README.md", _readme(report))
    return report


def folded_state(adapter: LoadedAdapter) -> dict[str, Tensor]:
    """Returns the base's weights with W + scaling · B A where the adapter sits, float32, in new tensors there.

    Names are the plain model's, as if there had never been an adapter.
    """
    halves = adapter_state(adapter.model)
    state: dict[str, Tensor] = {}
    for name, weight in adapter.base.model.state_dict().items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name:
            module = f"base_model.model.{plain.removesuffix('.weight')}"
            a, b = halves[f"{module}.lora_A.weight"].float(), halves[f"{module}.lora_B.weight"].float()
            weight = weight.float() + adapter.settings.scaling * (b @ a)
        state[plain] = weight.detach()
    return state


def _check_arguments(onto: str, dtype: str | None, probe_texts: Sequence[str]) -> None:
    if onto != "original":
        later = "comes with 4-bit bases, in a later version" if onto == "dequantized" else "is unknown"
        raise UsageError(f"--onto {onto} {later}", hint="leave --onto away")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"a model cannot be merged as '{dtype}'", hint=f"--dtype {' or '.join(DTYPES)}")
    if not probe_texts:
        raise UsageError("a merge is checked on real inputs, and there are none", hint="give a file with sources")


def _compare(
    adapter: LoadedAdapter, staged: Path, texts: Sequence[str], *, out: str, onto: str, dtype: str
) -> MergeReport:
    merged: Any = load_base(str(staged), dtype=dtype, device=adapter.base.device).model
    tokenizer: Any = load_tokenizer(adapter.base.name, adapter.base.revision)
    answer: Any = adapter.model.generate
    largest, total, changed, positions, count = 0.0, 0.0, 0, 0, 0
    with torch.inference_mode():
        for inputs in _batches(adapter, tokenizer, texts):
            # The adapter's greedy answers as decoder inputs, the start id first.
            inputs_BT = answer(**inputs, max_new_tokens=_LONGEST_ANSWER, num_beams=1, do_sample=False)
            real_BT = (inputs_BT != tokenizer.pad_token_id) & (inputs_BT != tokenizer.eos_token_id)
            real_BT[:, 0] = True  # the start id, which may be the padding id
            before_NV = adapter.model(**inputs, decoder_input_ids=inputs_BT).logits[real_BT].float()
            after_NV = merged(**inputs, decoder_input_ids=inputs_BT).logits[real_BT].float()
            difference_NV = (before_NV - after_NV).abs()
            # A NaN must not vanish in a maximum.
            largest = max(largest, float(difference_NV.max().nan_to_num(nan=float("inf"))))
            total += float(difference_NV.sum(dtype=torch.float64))
            count += difference_NV.numel()
            changed += int((before_NV.argmax(dim=-1) != after_NV.argmax(dim=-1)).sum())
            positions += len(before_NV)
    return MergeReport(out, onto, dtype, largest, total / count, changed / positions, positions)


def _batches(adapter: LoadedAdapter, tokenizer: Any, texts: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yields ``input_ids`` and ``attention_mask``, (B, S) each, sources of like length together."""
    asked = adapter.manifest.get("input", {}).get("max_source_tokens")
    most = min(asked, _MOST_SOURCE_TOKENS) if isinstance(asked, int) and asked > 1 else _MOST_SOURCE_TOKENS
    rows = sorted(
        (encode_source(text, tokenizer, max_source_tokens=most, truncate_source="right") for text in texts), key=len
    )
    for start in range(0, len(rows), _ROWS):
        batch = tokenizer.pad({"input_ids": rows[start : start + _ROWS]}, return_tensors="pt")
        yield {name: batch[name].to(adapter.base.device) for name in ("input_ids", "attention_mask")}


def _check_report(report: MergeReport) -> None:
    limit = _FLOAT32_TOLERANCE if report.dtype == "float32" else float("inf")
    if not report.max_logit_difference < limit:
        raise RunError(
            f"the merged model differs from the adapter by {report.max_logit_difference:.3g} in its logits "
            f"({report.top1_changed:.2%} of positions changed); nothing was written",
            hint="report this with the versions of torch and transformers",
        )


def _manifest(adapter: LoadedAdapter, report: MergeReport) -> dict[str, Any]:
    made_from = {"name": adapter.folder.resolve().name, "weights_sha256": sha256_file(adapter.folder / WEIGHTS)}
    base = {"name": adapter.base.name, "revision": adapter.base.revision, "weights_sha256": adapter.base.weights_sha256}
    check = {key: value for key, value in asdict(report).items() if key != "out"}
    return {"format": 1, "merged": made_from, "base": base, "input": adapter.manifest.get("input", {}), "check": check}


def _readme(report: MergeReport) -> str:
    return (
        "# A merged model\n\n"
        "An encoder-decoder model with a LoRA adapter folded into its weights, made by `lora-s2s merge`. What it was\n"
        "made from is in `manifest.json`. It needs no adapter and no special package:\n\n"
        "    AutoModelForSeq2SeqLM.from_pretrained(FOLDER); AutoTokenizer.from_pretrained(FOLDER)\n\n"
        f"Weights: {report.dtype}. Against the adapter on its base in float32, over {report.positions} positions:\n"
        f"largest logit difference {report.max_logit_difference:.3g}, mean {report.mean_logit_difference:.3g}, most\n"
        f"likely token changed at {report.top1_changed:.2%}.\n"
    )
