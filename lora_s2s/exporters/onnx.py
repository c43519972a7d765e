"""ONNX: writes an encoder and one decoder for every step, as onnxruntime, optimum and
transformers.js name their inputs and outputs.

The decoder is a single graph, without branches: it computes keys and values of those source
positions that the cache lacks, which are all of them at the first step and none later.

B batch, S source length, T target length, P cached length, H heads, D width of a head.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lora_s2s.errors import extra
from lora_s2s.exporters import parity
from lora_s2s.exporters.exporter import Exporter, Job, Usage
from lora_s2s.files import naming
from lora_s2s.hub import locate_model
from lora_s2s.inference.engine import lacking
from lora_s2s.inference.loading import load_predictor
from lora_s2s.inference.onnx_engine import (
    DECODER,
    ENCODER,
    FOLDER,
    LACKS,
    OnnxEngine,
    file_names,
    library,
    of_tokenizer,
)
from lora_s2s.inference.predictor import Predictor
from lora_s2s.models.generation import decoding_config
from lora_s2s.models.saving import save_tokenizer
from lora_s2s.tokens.loading import languages_of, load_tokenizer

_FAMILIES = ("t5", "mt5", "umt5", "bart", "mbart", "m2m_100", "marian", "pegasus")
# A graph is one protobuf message of at most 2 GiB; larger weights go into a file beside it.
LARGEST_GRAPH = 1900 * 2**20
_PARTS = [f"{side}.{kind}" for side in ("decoder", "encoder") for kind in ("key", "value")]
# Any sizes do that differ from each other and from 1.
_B, _S, _T, _P, _CACHED = 2, 7, 3, 5, 4


class _Encoder(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return states


class _Decoder(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        encoder_attention_mask: Tensor,
        input_ids: Tensor,
        encoder_hidden_states: Tensor,
        past: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        target, source = DynamicCache(), DynamicCache()
        for layer in range(len(past) // 4):
            keys_and_values = past[4 * layer : 4 * layer + 4]
            target.update(*keys_and_values[:2], layer)
            source.update(*keys_and_values[2:], layer)
        cache = EncoderDecoderCache(target, source)
        # The attention then appends to the source's keys instead of taking them as they are.
        cache.is_updated = dict.fromkeys(range(len(past) // 4), False)
        new_BSD = encoder_hidden_states[:, past[2].shape[2] :]
        # A mask of four axes is used as it is, whatever the length of the new states.
        hidden_BS = 1 - encoder_attention_mask.to(new_BSD.dtype)
        mask_B11S = hidden_BS[:, None, None, :] * torch.finfo(new_BSD.dtype).min
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=new_BSD),
            attention_mask=mask_B11S,
            decoder_input_ids=input_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = [
            states
            for own, other in zip(target.layers, source.layers, strict=True)
            for states in (own.keys, own.values, other.keys, other.values)
        ]
        return (output.logits, *present)


def _write(job: Job, out: Path) -> None:
    predictor = load_predictor(job.model, dtype="float32", device="cpu")
    model, tokenizer = predictor.torch.model, predictor.tokenizer
    # Read by optimum and transformers.js, which know no defaults of transformers' classes.
    shutil.copyfile(locate_model(job.model) / "config.json", out / "config.json")
    decoding = dict(job.decoding)
    if decoding["num_beams"] > 1:  # as this package's engine searches
        decoding["early_stopping"] = True
    decoding_config(model, tokenizer, decoding).save_pretrained(out)
    save_tokenizer(tokenizer, out)
    write_graphs(model, out / FOLDER, job.precision)


def engine(predictor: Predictor, folder: Path, precision: str, *, threads: int = 0) -> OnnxEngine:
    """Opens a written folder."""
    tokenizer = load_tokenizer(str(folder), None, **languages_of(predictor.settings))
    encoder, decoder = (folder / FOLDER / name for name in file_names(precision))
    never = parity.never_of(predictor)
    start = predictor.torch.model.config.decoder_start_token_id
    return of_tokenizer((encoder, decoder), tokenizer, start, never, threads=threads)


def write_graphs(model: PreTrainedModel, out: Path, precision: str) -> None:
    """Writes both graphs into a new folder.

    Args:
        model: a whole model in float32; it attends eagerly afterwards.
        precision: ``float32`` or ``int8``: matrices of 8 bits, and what is multiplied with them is
            quantized as it comes.

    Raises:
        SetupError: onnx, onnxscript or onnxruntime is not installed.
    """
    out.mkdir()
    model.set_attn_implementation("eager")
    with _quiet(), torch.no_grad():
        graphs = {ENCODER: _encoder_graph(model), DECODER: _decoder_graph(model)}
    for name, target in zip(graphs, file_names(precision), strict=True):
        path = out / f"{name}.onnx"
        _save(graphs[name], path)
        if precision == "int8":
            _quantize(path, out / target)


def require() -> None:
    """Checks that the libraries are installed.

    Raises:
        SetupError: one is not.
    """
    library()
    with extra("onnx"):
        import onnx
        import onnxscript
    del onnx, onnxscript


def _encoder_graph(model: PreTrainedModel) -> Any:
    ids_BS = torch.ones((_B, _S), dtype=torch.long)
    axes = {0: Dim("batch_size"), 1: Dim("encoder_sequence_length")}
    return torch.onnx.export(
        _Encoder(model).eval(),
        (ids_BS, torch.ones_like(ids_BS)),
        dynamo=True,
        verbose=False,
        input_names=["input_ids", "attention_mask"],
        output_names=["last_hidden_state"],
        dynamic_shapes=(axes, axes),
    )


def _decoder_graph(model: PreTrainedModel) -> Any:
    ids_BS = torch.ones((_B, _S), dtype=torch.long)
    example = model(input_ids=ids_BS, decoder_input_ids=ids_BS[:, :1], use_cache=True)
    layers = example.past_key_values.self_attention_cache.layers
    keys_BHTD = layers[0].keys
    past = [
        torch.zeros(_B, keys_BHTD.shape[1], length, keys_BHTD.shape[3])
        for _ in layers
        for length in (_P, _P, _CACHED, _CACHED)
    ]
    batch, source = Dim("batch_size"), Dim("encoder_sequence_length")
    own, other = Dim("past_decoder_sequence_length"), Dim("past_encoder_sequence_length")
    names = [f"{layer}.{part}" for layer in range(len(layers)) for part in _PARTS]
    return torch.onnx.export(
        _Decoder(model).eval(),
        (torch.ones_like(ids_BS), ids_BS[:, :_T], example.encoder_last_hidden_state, past),
        dynamo=True,
        verbose=False,
        input_names=[
            "encoder_attention_mask",
            "input_ids",
            "encoder_hidden_states",
            *(f"past_key_values.{name}" for name in names),
        ],
        output_names=["logits", *(f"present.{name}" for name in names)],
        dynamic_shapes=(
            {0: batch, 1: source},
            {0: batch, 1: Dim("decoder_sequence_length")},
            {0: batch, 1: source},
            [{0: batch, 2: length} for _ in layers for length in (own, own, other, other)],
        ),
    )


def _save(program: Any, path: Path) -> None:
    import onnx_ir

    model = program.model
    weights = model.graph.initializers.values()
    nodes = list(model.graph.all_nodes())
    results = [value for node in nodes for value in node.outputs]
    # The exporter notes where in this machine's files each part comes from.
    for part in (model, model.graph, *model.graph.inputs, *weights, *nodes, *results):
        part.metadata_props.clear()
    size = sum(weight.const_value.nbytes for weight in weights)
    beside = f"{path.name}_data" if size > LARGEST_GRAPH else None
    with naming(path):
        onnx_ir.save(model, path, external_data=beside)


def _quantize(path: Path, out: Path) -> None:
    """Writes a graph with 8-bit matrices, and removes the one it was made from."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    beside = path.with_name(f"{path.name}_data")
    with _quiet():
        quantize_dynamic(
            path,
            out,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=beside.is_file(),
            extra_options={"MatMulConstBOnly": True},
        )
    path.unlink()
    beside.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters, which report what they skip and what would be deprecated."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _example(usage: Usage) -> str:
    encoder, decoder = file_names(usage.precision)
    return f"""import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path("FOLDER")
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
settings = json.loads((folder / "generation_config.json").read_text("utf-8"))
encoder = onnxruntime.InferenceSession(folder / "{FOLDER}" / "{encoder}")
decoder = onnxruntime.InferenceSession(folder / "{FOLDER}" / "{decoder}")

ids = np.array([tokenizer.encode("your text").ids])
mask = np.ones_like(ids)
(states,) = encoder.run(None, {{"input_ids": ids, "attention_mask": mask}})
source = {{"encoder_hidden_states": states, "encoder_attention_mask": mask}}
cache = {{
    given.name: np.zeros((1, given.shape[1], 0, given.shape[3]), np.float32)
    for given in decoder.get_inputs()
    if given.name.startswith("past_key_values")
}}
token, answer = settings["decoder_start_token_id"], []
for step in range(settings["max_new_tokens"]):
    logits, *present = decoder.run(None, {{**source, **cache, "input_ids": np.array([[token]])}})
    cache = dict(zip(cache, present))
    token = int(logits[0, -1].argmax())
    if step == 0 and settings.get("forced_bos_token_id") is not None:
        token = settings["forced_bos_token_id"]
    if token == settings["eos_token_id"]:
        break
    answer.append(token)
print(tokenizer.decode(answer))
"""


EXPORTER = Exporter(
    title="ONNX",
    bytes_per_weight={"float32": 8, "int8": 10},
    families=_FAMILIES,
    require=require,
    write=_write,
    engine=engine,
    never=parity.never_of,
    example=_example,
    lacks=lambda settings: lacking(settings, LACKS),
)
