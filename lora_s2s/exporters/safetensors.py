"""safetensors: what ``merge`` writes, in a chosen precision and size of file, for transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lora_s2s import probe
from lora_s2s.exporters import parity
from lora_s2s.exporters.exporter import Exporter, Job, Usage
from lora_s2s.inference.predictor import Predictor
from lora_s2s.models.common import begin_answers
from lora_s2s.models.generation import plain_model
from lora_s2s.models.loading import load_base
from lora_s2s.models.precision import DTYPES
from lora_s2s.models.saving import save_model
from lora_s2s.tokens.loading import languages_of, load_tokenizer
from lora_s2s.tokens.special_tokens import first_ids


def _write(job: Job, out: Path) -> None:
    base = load_base(job.model, dtype="float32", device="cpu")
    state = base.model.state_dict()
    save_model(state, base, out, dtype=DTYPES[job.precision], shard_bytes=job.shard_bytes)
    probe.remember(out)


def engine(predictor: Predictor, folder: Path, _precision: str = "") -> parity.Reference:
    """Returns what plain transformers makes of a written folder."""
    tokenizer = load_tokenizer(str(folder), None, **languages_of(predictor.settings))
    model = plain_model(folder)
    begin_answers(model, **first_ids(tokenizer))
    engine = replace(predictor.torch, model=model, tokenizer=tokenizer, has_adapter=False)
    return parity.Reference(replace(predictor, engine=engine, tokenizer=tokenizer))


def _example(usage: Usage) -> str:
    return f"""from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
inputs = tokenizer("your text", return_tensors="pt")
answer = model.generate(
    **inputs, max_new_tokens={usage.max_new_tokens}, num_beams={usage.num_beams}
)
print(tokenizer.decode(answer[0], skip_special_tokens=True))
"""


EXPORTER = Exporter(
    title="safetensors",
    bytes_per_weight={"float32": 4, "float16": 2, "bfloat16": 2},
    families=None,
    require=lambda: None,
    write=_write,
    engine=engine,
    never=parity.never_of,
    example=_example,
)
