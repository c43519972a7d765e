"""The base model's shape, its starting weights, and a lean training forward over HF's modules.

The forward gives HF's loss (without dropout) in half the time: float32 weights and residual,
bfloat16 products, fused norms and gates, the head only where there is a label.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

ROWS = 2560  # embedding rows: 2,532 tokenizer entries + 28 spare, like Flan's 32,100 + 28
DTYPE = torch.bfloat16
_MASKED = -1e9


def base_config() -> T5Config:
    """Flan's shape in small: gated GELU, untied head, inner width (6 x 32) unlike d_model."""
    return T5Config(
        vocab_size=ROWS,
        d_model=256,
        d_kv=32,
        num_heads=6,
        d_ff=320,
        num_layers=3,
        num_decoder_layers=3,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )


def new_model(seed: int) -> T5ForConditionalGeneration:
    """A model with fresh weights whose cross-attention starts out as a copier.

    Left to chance, copying unseen names through cross-attention appears only after thousands of
    steps. So the weights start as an induction circuit: the encoder's first layer writes at each
    position its two predecessors, cross-attention looks for the source position whose
    predecessors are the last two output tokens, and value, output and head maps pass that
    position's token on. Everything is then trained as usual.
    """
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(base_config())
    # transformers 5 ties every T5 it makes; a head of its own has to be put in
    model.lm_head = torch.nn.Linear(model.config.d_model, ROWS, bias=False)
    with torch.no_grad():
        _plain_weights(model)
        _copying_weights(model)
    return model


def _plain_weights(model: T5ForConditionalGeneration) -> None:
    for name, weight in model.named_parameters():
        fan_in = weight.shape[-1]
        if weight.dim() == 1:
            weight.fill_(1.0)
        elif "relative_attention_bias" in name:
            weight.zero_()
        elif name == "shared.weight":
            weight.normal_(0, 1)
        else:
            scale = 0.2 if name.endswith("q.weight") else 0.5 if name.endswith("o.weight") else 1.0
            weight.normal_(0, scale * fan_in**-0.5)


def _orthogonal(size: int) -> Tensor:
    factors: tuple[Tensor, Tensor] = torch.linalg.qr(torch.randn(size, size))
    return factors[0]


def _copying_weights(model: T5ForConditionalGeneration) -> None:
    """Set the induction circuit described in ``new_model``; all other heads stay random.

    Encoder, every layer: head 0 looks one token back, head 1 two back (the bias table is shared
    by all layers); in the second layer heads 2 and 3 look at other places with the same token,
    which is what a look-up needs. Decoder: head 1 looks one back. Cross-attention of the first
    two layers: heads 0-3 match the last two tokens written and pass on the token that followed.
    """
    width, head = model.config.d_model, model.config.d_kv
    read, write, carry, turn, same = (_orthogonal(width) for _ in range(5))
    encoder: Any = model.encoder.block[0].layer[0]
    decoder: Any = model.decoder.block[0].layer[0]
    encoder.SelfAttention.relative_attention_bias.weight[1, 0] = 6.0
    encoder.SelfAttention.relative_attention_bias.weight[2, 1] = 6.0
    encoder.SelfAttention.relative_attention_bias.weight[0, 2:4] = -6.0  # others, not itself
    decoder.SelfAttention.relative_attention_bias.weight[1, 1] = 6.0
    for stack, heads in ((encoder, range(2)), (decoder, range(1, 2))):
        for index in heads:
            part = slice(index * head, (index + 1) * head)
            stack.SelfAttention.v.weight[part] = read[part]
            stack.SelfAttention.o.weight[:, part] = write[part].T
    second: Any = model.encoder.block[1].layer[0]
    pair = slice(2 * head, 4 * head)
    second.SelfAttention.q.weight[pair] = second.SelfAttention.k.weight[pair] = 0.7 * same[pair]
    half = head // 2
    for layer in range(2):
        cross: Any = model.decoder.block[layer].layer[1]
        cross = cross.EncDecAttention
        for index in range(4):
            row, side = index * head, (index % 2) * half
            one, two = slice(side, side + half), slice(head + side, head + side + half)
            # 0.6 x 0.6: a match scores about 10 above the rest, sure but not saturated
            cross.q.weight[row : row + half] = 0.6 * read[one]
            cross.k.weight[row : row + half] = 0.6 * write[one]
            cross.q.weight[row + half : row + head] = 0.6 * write[two]
            cross.k.weight[row + half : row + head] = 0.6 * write[two]
            value = slice((layer * 4 + index) * head, (layer * 4 + index + 1) * head)
            cross.v.weight[row : row + head] = carry[value]
            cross.o.weight[:, row : row + head] = turn @ carry[value].T
    model.lm_head.weight.copy_(0.05 * model.shared.weight @ turn.T)


class _RMSNorm(torch.autograd.Function):
    """T5's layer norm: float32 residual (..., D) in, bfloat16 out; keeps only x / rms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt((x * x).mean(-1, keepdim=True).add_(eps))
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        return (unit * weight).to(DTYPE)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, scale, weight = ctx.saved_tensors
        grad = grad.float()
        product = grad * unit
        along = (product @ weight.unsqueeze(1)).mul_(-1 / unit.shape[-1])
        return (
            torch.addcmul(grad.mul_(weight), unit, along).mul_(scale),
            product.flatten(0, -2).sum(0),
            None,
        )


class _GatedGelu(torch.autograd.Function):
    """gelu(a) * b for the two halves of (..., 2F); keeps the halves and gelu(a)."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        a, b = both.chunk(2, -1)
        gate = F.gelu(a, approximate="tanh")
        ctx.save_for_backward(both, gate)
        return gate * b

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        both, gate = ctx.saved_tensors
        a, b = both.chunk(2, -1)
        out = torch.empty_like(both)
        out_a, out_b = out.chunk(2, -1)
        torch.mul(grad, gate, out=out_b)
        out_a.copy_(torch.ops.aten.gelu_backward(grad * b, a, approximate="tanh"))
        return out


class _CrossEntropy(torch.autograd.Function):
    """Summed cross-entropy in float32 of bfloat16 logits (N, V); keeps only its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        wide = logits.float()
        total = torch.logsumexp(wide, -1)
        loss = (total - wide.gather(1, labels[:, None])[:, 0]).sum()
        wide.sub_(total[:, None]).exp_()
        wide[torch.arange(len(labels)), labels] -= 1
        ctx.save_for_backward(wide.to(logits.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype), None


def _linear(x: Tensor, *layers: Any) -> Tensor:
    """One product for several layers that read the same input; weights rounded on the fly."""
    return F.linear(x, torch.cat([layer.weight for layer in layers]).to(DTYPE))


def _norm(layer: Any, x: Tensor) -> Tensor:
    out: Tensor = _RMSNorm.apply(x, layer.weight, layer.variance_epsilon)  # type: ignore[no-untyped-call]
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int) -> Tensor:
    """T5 attention without 1/sqrt(d); ``bias`` (B or 1, H or 1, Tq, Tk) is added to the scores."""
    q, k, v = (y.view(y.shape[0], y.shape[1], heads, -1).transpose(1, 2) for y in (q, k, v))
    weights = torch.softmax((q @ k.transpose(2, 3)).float() + bias, dim=-1).to(v.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)


def _self_attention(layer: Any, x: Tensor, bias: Tensor) -> Tensor:
    attention = layer.SelfAttention
    q, k, v = _linear(_norm(layer.layer_norm, x), attention.q, attention.k, attention.v).chunk(
        3, -1
    )
    return x + _linear(_attend(q, k, v, bias, attention.n_heads), attention.o)


def _cross_attention(layer: Any, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
    attention = layer.EncDecAttention
    k, v = _linear(memory, attention.k, attention.v).chunk(2, -1)
    q = _linear(_norm(layer.layer_norm, x), attention.q)
    return x + _linear(_attend(q, k, v, bias, attention.n_heads), attention.o)


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    dense = layer.DenseReluDense
    both = _linear(_norm(layer.layer_norm, x), dense.wi_0, dense.wi_1)
    gated: Tensor = _GatedGelu.apply(both)  # type: ignore[no-untyped-call]
    return x + _linear(gated, dense.wo)


def decoder_states(model: T5ForConditionalGeneration, source: Tensor, inputs: Tensor) -> Tensor:
    """Final decoder states (B, T, D); ``source`` (B, S) is padded with 0, no dropout."""
    encoder, decoder = model.encoder, model.decoder
    padding = torch.where(source == 0, _MASKED, 0.0)[:, None, None, :]
    first: Any = encoder.block[0].layer[0].SelfAttention
    bias = first.compute_bias(source.shape[1], source.shape[1], device=source.device) + padding
    x = model.shared(source)
    for block in encoder.block:
        x = _feed_forward(block.layer[1], _self_attention(block.layer[0], x, bias))
    memory = _norm(encoder.final_layer_norm, x)

    steps = inputs.shape[1]
    first = decoder.block[0].layer[0].SelfAttention
    future = torch.full((steps, steps), _MASKED).triu(1)
    bias = first.compute_bias(steps, steps, device=inputs.device) + future
    x = model.shared(inputs)
    for block in decoder.block:
        x = _self_attention(block.layer[0], x, bias)
        x = _cross_attention(block.layer[1], x, memory, padding)
        x = _feed_forward(block.layer[2], x)
    return _norm(decoder.final_layer_norm, x)


def loss_of(
    model: T5ForConditionalGeneration, source: Tensor, labels: Tensor
) -> tuple[Tensor, int]:
    """Summed cross-entropy and number of target tokens; ``labels`` (B, T) are padded with 0."""
    inputs = F.pad(labels, (1, 0))[:, :-1]
    real = labels != 0
    logits = _linear(decoder_states(model, source, inputs)[real], model.lm_head)
    loss: Tensor = _CrossEntropy.apply(logits, labels[real])  # type: ignore[no-untyped-call]
    return loss, int(real.sum())
