"""One process of a run: prints its log and writes the adapter it ends with. Not a test."""

from __future__ import annotations

import sys
from pathlib import Path


def main(folder: Path, accumulation: int, rank: int) -> None:
    import safetensors.torch
    from training_parts import Rows, adapter_of, run, tiny_model

    from lora_s2s.lora import token_rows
    from lora_s2s.training.processes import is_main_process
    from lora_s2s.training.validation import make_validation

    # Every process starts from other adapter weights: the main process's must win.
    model = tiny_model(seed=0)
    token_rows.add(model.get_base_model(), [5, 40, 95])
    if rank:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(1.0)
    rows = Rows(22, longest=30)
    result = run(
        folder,
        model=model,
        rows=rows,
        gradient_accumulation=accumulation,
        max_steps=7,
        evaluate=make_validation(rows, pad_token_id=0, batch_size=5),
    )
    assert is_main_process() == (rank == 0)
    assert result.steps == 7
    safetensors.torch.save_file(adapter_of(model), folder / f"rank{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
