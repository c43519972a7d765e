"""The loss: summed cross-entropy, and the number of target tokens.

B batch, T target length, N target tokens of the batch, D model width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from lora_s2s.data.collate import Batch
from lora_s2s.fast_t5.choose import fast_states
from lora_s2s.fast_t5.head import cross_entropy, head_loss
from lora_s2s.models.common import shift_right
from lora_s2s.models.family import FAMILIES
from lora_s2s.models.sharded import is_divided
from lora_s2s.tokens.labels import IGNORE_INDEX


def sequence_loss(
    model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Tensor, int]:
    """Returns the summed cross-entropy of a batch (nats, scalar float32) and its number of target
    tokens.

    The sum is not divided: the divisor depends on all batches of the optimizer step. The forward is
    the one that :func:`lora_s2s.fast_t5.choose.fast_forward` chose,
    else transformers'.

    Args:
        model: an encoder-decoder whose ``config`` names its type, the decoder's start and the
            padding id.
        batch: on the model's device; labels padded with IGNORE_INDEX.
        label_smoothing: share of the target probability spread evenly over the vocabulary.
        z_loss: weight of each token's squared log-normaliser.
    """
    model_type = model.config.model_type  # type: ignore[union-attr]
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    extra = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    fast = fast_states(model, batch)
    if fast is not None:
        return head_loss(fast.states_ND, head, fast.labels_N, **extra), batch.target_tokens
    # Only the head's own weight counts: trained token rows inside it are handled either way. One
    # that is divided is whole only while its module computes.
    own = list(head.parameters(recurse=False))
    frozen = not any(weight.requires_grad or is_divided(weight) for weight in own)
    in_chunks = FAMILIES[str(model_type)].plain_head and frozen
    labels_N = batch.labels_BT[counted_BT := batch.labels_BT != IGNORE_INDEX]
    states: list[Tensor] = []

    def counted(_head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        # A small model's largest product is the head's: only the N labelled positions pass it.
        states_ND = inputs[0][counted_BT]
        states.append(states_ND)
        return (states_ND[:0] if in_chunks else states_ND,)

    with head.register_forward_pre_hook(counted):
        logits_NV: Tensor = model(
            input_ids=batch.input_ids_BS,
            attention_mask=batch.attention_mask_BS,
            decoder_input_ids=shift_right(batch.labels_BT, model.config),
            use_cache=False,
        ).logits
    if in_chunks:
        return head_loss(states[0], head, labels_N, **extra), batch.target_tokens
    return cross_entropy(logits_NV, labels_N, **extra), batch.target_tokens
