"""ONNX exports, family by family: onnxruntime answers as transformers does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_onnx import checked, exported
from tiny_families import TINY

from lora_s2s.exporters import onnx, parity

# Flan-T5 is what the other tests export. Each of these has what no other graph has: a tied and
# scaled head and fewer layers in the decoder, relative positions in every layer, learned positions
# and weights in a file beside, positions counted from the padding, and a bias on the logits.
OTHERS = ["T5 v1.0", "UMT5", "BART", "M2M100, NLLB", "Marian"]
# Graphs of parts that those have too.
ALIKE = ["ByT5", "CodeT5, CodeT5+", "mT5", "mBART", "Pegasus"]
ONE = {"encoder_layers": 1, "decoder_layers": 1}  # all layers are alike there
LAYERS = {"T5 v1.0": {"num_decoder_layers": 1}, "BART": ONE, "M2M100, NLLB": ONE, "Marian": ONE}


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS),
        *(pytest.param(name, marks=pytest.mark.long) for name in ALIKE),
    ],
)
def test_every_family_answers_as_in_transformers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another answer counts as equal only where the model itself scores both the same.
    monkeypatch.setattr(parity, "_TIE", 1e-5)
    if name == "BART":  # as for more than 2 GiB
        monkeypatch.setattr(onnx, "LARGEST_GRAPH", 0)
    settings = {**TINY[name].settings, **LAYERS.get(name, {})}
    monkeypatch.setitem(TINY, name, replace(TINY[name], settings=settings))
    predictor = exported(name, tmp_path)
    if name == "BART":
        assert (tmp_path / "out" / "onnx" / "decoder_model_merged.onnx_data").is_file()
    if name == "Marian":  # as its checkpoints say
        model: Any = predictor.torch.model
        model.generation_config.bad_words_ids = [[predictor.tokenizer.pad_token_id]]
    engine = onnx.engine(predictor, tmp_path / "out", "float32", threads=1)
    measured = checked(predictor, engine, count=80)
    assert measured.max_log_prob_difference < 1e-4
    assert (measured.greedy_equal, measured.beam_equal) == (1.0, 1.0)
