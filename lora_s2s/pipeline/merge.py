"""An adapter folded into its base, compared on real inputs. Heavy to import."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lora_s2s.console import warn
from lora_s2s.demo.task import examples
from lora_s2s.errors import Error
from lora_s2s.examples.example import Example
from lora_s2s.examples.read import Examples
from lora_s2s.lora.merge import MergeReport, merge_adapter
from lora_s2s.outputs import check_new
from lora_s2s.pipeline import html
from lora_s2s.pipeline.adapters import NO_DATA, decoding_of, recipe_of
from lora_s2s.pipeline.followed import followed
from lora_s2s.reports.samples import sample_rows


@dataclass(frozen=True)
class MergedModel(MergeReport):
    """What merging changed; ``out`` is the merged model's folder."""

    def to_dict(self) -> dict[str, Any]:
        """The object of ``merge --json``."""
        return asdict(self)

    def _repr_html_(self) -> str:
        return html.merged(self)


def merge_model(
    adapter: str,
    out: Path,
    *,
    onto: str = "original",
    dtype: str | None = None,
    data: str | None = None,
    base: str | None = None,
) -> MergedModel:
    """Writes the merged model; it decodes as the adapter was scored.

    Args:
        onto, dtype: see :func:`lora_s2s.lora.merge.merge_adapter`.
        data: what to compare on; what the adapter was scored or trained on by default.
        base: a base in place of the one that the adapter names.
    """
    folder = Path(adapter)
    check_new(out)
    decoding = decoding_of(folder)
    report = merge_adapter(
        folder,
        out,
        onto=onto,
        dtype=dtype,
        base_override=base,
        probe_texts=probe_texts(folder, data),
        decoding=decoding,
    )
    return MergedModel(**vars(report))


def _is_text(value: object) -> bool:
    """Whether a value is text that a tokenizer takes: half a surrogate pair is none."""
    return isinstance(value, str) and value == value.encode(errors="ignore").decode()


def probe_texts(adapter: Path, data: str | None = None, count: int = 16) -> list[str]:
    """Returns real sources to compare two models on: of ``data``, or what the adapter was scored
    on, or its data.

    Without any of these they are the demo task's.
    """
    scored = (
        []
        if data
        else [
            str(row["source"]) for row in sample_rows(adapter, count) if _is_text(row.get("source"))
        ]
    )
    if scored:
        return scored
    try:
        recipe = recipe_of(str(adapter), data=data)
        section = recipe.data if data else followed(recipe, str(adapter)).data
        named = data or section.test or section.validation or section.train
        # A plain adapter names nothing, and what is named is no reason to fetch anything.
        rows = (
            ()
            if named == NO_DATA or "hf:" in str(named)
            else Examples(section.model_copy(update={"train": named}))
        )
        found = dict.fromkeys(
            row.source for row in islice(rows, 64 * count) if isinstance(row, Example)
        )
        texts = list(found)[:count]
    except Error as error:  # the data need not be on the machine that merges
        if data:
            raise
        warn(f"compared on the demo task's sources: {error.message}; --data FILE names others")
        texts = []
    return texts or [source for source, _ in examples("test", count)]
