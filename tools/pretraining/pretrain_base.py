"""Make the bundled base model: ``vocabulary``, ``train``, ``export``, in this order.

    python pretrain_base.py vocabulary --corpus chapters.jsonl.gz --work run
    python pretrain_base.py train      --corpus chapters.jsonl.gz --work run --minutes 50
    python pretrain_base.py export     --work run --out ../../lora_s2s/demo/base

The learning rate warms up, stays, and decays in the last part of the time (``--decay-from`` as a
share of ``--minutes``). The state is saved at every probe, so a run may be stopped and resumed
with ``--resume``, and its end need not be known at its start.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import sentencepiece
import torch
from pretraining_export import check_tokenizer, export
from pretraining_mixture import Mixture, make_source, probe_sets
from pretraining_model import loss_of, new_model
from pretraining_text import PIECES, SENTINELS, check_vocabulary, read_books, train_vocabulary
from torch import Tensor
from transformers import T5ForConditionalGeneration

ProbeSets = dict[str, list[tuple[str, str, list[str]]]]
_SENTINEL = re.compile(r"<extra_id_(\d+)>")
EOS = 1


@dataclass
class Progress:
    """How far a run is; saved with the weights."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Codec:
    """Text to ids and back with the raw SentencePiece model, sentinels included."""

    def __init__(self, path: Path) -> None:
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def encode(self, text: str) -> list[int]:
        """Ids with the end mark, as the exported tokenizer gives them."""
        parts = _SENTINEL.split(text)
        ids: list[int] = []
        for index, part in enumerate(parts):
            if index % 2:
                ids.append(PIECES + SENTINELS - 1 - int(part))
            elif part:
                ids += self.pieces.encode(part)
        return [*ids, EOS]

    def decode(self, ids: list[int]) -> str:
        return str(self.pieces.decode([i for i in ids if EOS < i < PIECES]))


def batches(
    mixture: Mixture, codec: Codec, tokens: int, rng: random.Random
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Endless (source, labels, real tokens); examples of like length share a batch."""
    while True:
        rows = []
        for _ in range(8000):
            _, prompt, answer = mixture.draw()
            source, labels = codec.encode(prompt), codec.encode(answer)
            if len(source) <= 200 and len(labels) <= 130:
                rows.append((source, labels))
        rows.sort(key=lambda row: (len(row[0]) // 6, len(row[1])))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            wide = max([len(s) for s, _ in groups[-1]] + [len(row[0])])
            high = max([len(t) for _, t in groups[-1]] + [len(row[1])])
            # A target token costs about twice a source token.
            if groups[-1] and (wide + 2 * high) * (len(groups[-1]) + 1) > tokens * 1.33:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            real = sum(len(s) + len(t) for s, t in group)
            yield _pad([s for s, _ in group]), _pad([t for _, t in group]), real


def _pad(rows: list[list[int]]) -> Tensor:
    out = numpy.zeros((len(rows), max(map(len, rows))), dtype=numpy.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return torch.from_numpy(out)


def learning_rate(args: argparse.Namespace, step: int, share: float) -> float:
    """Warm-up by steps; decay to a twentieth, linearly, by the share of the time used."""
    rate: float = args.lr * min(1.0, (step + 1) / args.warmup)
    if share > args.decay_from:
        rate *= max(0.05, 1 - (share - args.decay_from) / (1 - args.decay_from))
    return rate


@torch.no_grad()
def probe(model: T5ForConditionalGeneration, codec: Codec, sets: ProbeSets) -> dict[str, float]:
    """Share of held-out examples answered word for word, or holding every given value."""
    model.eval()
    result: dict[str, float] = {}
    for task, rows in sets.items():
        sources, labels = (
            _pad([codec.encode(p) for p, _, _ in rows]),
            _pad([codec.encode(a) for _, a, _ in rows]),
        )
        loss, count = loss_of(model, sources, labels)
        result[f"{task}_loss"] = round(loss.item() / count, 4)
        if task == "denoise":
            continue
        out = model.generate(
            input_ids=sources,
            attention_mask=(sources != 0).long(),
            max_new_tokens=labels.shape[1] + 8,
            do_sample=False,
        )
        texts = [codec.decode(row.tolist()) for row in out]
        good = [
            all(value in text for value in values)
            if values
            else text == codec.decode(codec.encode(answer))
            for text, (_, answer, values) in zip(texts, rows, strict=True)
        ]
        result[task] = round(sum(good) / len(good), 4)
    model.train()
    return result


def make_optimizer(
    model: T5ForConditionalGeneration, args: argparse.Namespace
) -> torch.optim.Optimizer:
    """AdamW; weight decay on the matrices of the layers only.

    T5 does not divide scores by the root of the head's size (5.7 here), so one step of AdamW on
    ``q`` and ``k`` moves a score that much further than elsewhere: they take 0.3 of the rate.
    """
    scores, decayed, rest = [], [], []
    for name, weight in model.named_parameters():
        if name.endswith((".q.weight", ".k.weight")):
            scores.append(weight)
        elif weight.dim() == 1 or "shared" in name or "relative" in name:
            rest.append(weight)
        else:
            decayed.append(weight)
    groups = [
        {"params": scores, "weight_decay": args.weight_decay, "share": 0.3},
        {"params": decayed, "weight_decay": args.weight_decay, "share": 1.0},
        {"params": rest, "weight_decay": 0.0, "share": 1.0},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)


class Gradients:
    """Sums gradients over worker processes through shared memory.

    Two processes of one thread each use two cores better than one process of two threads: the
    products are small, and a busy neighbour on one core does not stall every operation.
    ``shared`` is (2, workers, parameters + 2): the last two columns hold loss and target tokens.
    """

    def __init__(
        self, model: T5ForConditionalGeneration, shared: Tensor, rank: int, gate: Any
    ) -> None:
        self.shared, self.rank, self.gate = shared, rank, gate
        self.mine = torch.zeros(shared.shape[-1])
        start = 0
        for weight in model.parameters():
            weight.grad = self.mine[start : start + weight.numel()].view_as(weight)
            start += weight.numel()

    def exchange(self, step: int, loss: float, count: int) -> float:
        """Leave the clipped mean gradient over all workers in place; returns the mean loss."""
        self.mine[-2], self.mine[-1] = loss, count
        turn = self.shared[step % 2]  # two turns, so that nobody overwrites what others still read
        turn[self.rank].copy_(self.mine)
        self.gate.wait()
        torch.sum(turn, 0, out=self.mine)
        tokens = float(self.mine[-1])
        mean_loss = float(self.mine[-2]) / tokens
        grads = self.mine[:-2].div_(tokens)
        grads.mul_(min(1.0, 1.0 / (float(grads.norm()) + 1e-6)))
        return mean_loss


def train(args: argparse.Namespace) -> None:
    """Train for ``--minutes`` in ``--workers`` processes, probing and saving as it goes."""
    size = sum(weight.numel() for weight in new_model(args.seed).parameters()) + 2
    shared = torch.zeros(2, args.workers, size).share_memory_()  # type: ignore[no-untyped-call]
    control = torch.zeros(2, dtype=torch.float64).share_memory_()  # type: ignore[no-untyped-call]  # seconds used, of rank 0
    gate = torch.multiprocessing.get_context("spawn").Barrier(args.workers)
    torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        work, (args, shared, control, gate), nprocs=args.workers
    )


def work(rank: int, args: argparse.Namespace, shared: Tensor, control: Tensor, gate: Any) -> None:
    """One worker: all do the same steps on different examples; rank 0 probes and saves."""
    torch.set_num_threads(1)
    folder = Path(args.work)
    codec = Codec(folder / "spiece.model")
    books = read_books(Path(args.corpus), args.seed)
    model = new_model(args.seed)
    optimizer = make_optimizer(model, args)
    state = Progress()
    if args.resume:
        saved = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = Progress(**saved["state"])
    seed = args.seed * 1_000_003 + state.step * 101 + rank
    mixture = Mixture(make_source(books, random.Random(seed)), args.mixture)
    feed = batches(mixture, codec, args.batch_tokens // args.workers, random.Random(seed))
    sets = probe_sets(books, args.probes) if rank == 0 else {}
    gradients = Gradients(model, shared, rank, gate)
    began, before, losses = time.monotonic(), state.seconds, [0.0]
    while True:
        if rank == 0:
            control[state.step % 2] = time.monotonic() - began
        mixture.grow(state.step)
        source, labels, real = next(feed)
        loss, count = loss_of(model, source, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(gradients.exchange(state.step, loss.item(), count))
        used = float(control[state.step % 2])
        rate = learning_rate(args, state.step, used / (60 * args.minutes))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        optimizer.step()
        gradients.mine.zero_()
        state.step += 1
        state.tokens += real * args.workers
        state.seconds = before + used
        done = used >= 60 * args.minutes or state.step >= args.steps
        if rank == 0 and state.step % 100 == 0:
            mean = sum(losses[-100:]) / 100
            print(
                f"{state.step} loss {mean:.3f} lr {rate:.2e} tokens {state.tokens} {used:.0f}s",
                flush=True,
            )
        if rank == 0 and (done or state.step % args.every == 0):
            save(folder, model, optimizer, state)
            report(folder, model, codec, sets, state)
        if done:
            return


def report(
    folder: Path, model: T5ForConditionalGeneration, codec: Codec, sets: ProbeSets, state: Progress
) -> None:
    """Append one line to ``probe.jsonl``."""
    line = {
        "step": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds),
        **probe(model, codec, sets),
    }
    with (folder / "probe.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def save(
    folder: Path,
    model: T5ForConditionalGeneration,
    optimizer: torch.optim.Optimizer,
    state: Progress,
) -> None:
    """Write weights and optimiser state whole, under a temporary name first."""
    staged = folder / "state.tmp"
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": asdict(state)},
        staged,
    )
    staged.replace(folder / "state.pt")


def vocabulary(args: argparse.Namespace) -> None:
    """Train the vocabulary on equal parts of books and generated tasks."""
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    books = read_books(Path(args.corpus), args.seed)
    rng = random.Random(args.seed)
    mixture = Mixture(make_source(books, rng), "full")
    texts: list[str] = []
    while len(texts) < 25_000:
        task, prompt, answer = mixture.draw()
        if task != "denoise":
            texts.append(f"{prompt} {answer}")
    path = train_vocabulary(texts + rng.sample(books.passages, 25_000), work)
    codec = Codec(path)
    check_vocabulary([codec.pieces.id_to_piece(i) for i in range(PIECES)])


def export_base(args: argparse.Namespace) -> None:
    """Write the saved state as a model folder and check its tokenizer."""
    work = Path(args.work)
    model = new_model(args.seed)
    saved = torch.load(work / "state.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    size = export(model, work / "spiece.model", Path(args.out))
    texts = [
        "name[The Vane], near[Café Övre], £3-£4",
        "  two  spaces and\ttab\nline ",
        "ﬁne “quotes” … {x}",
        "",
    ]
    check_tokenizer(Path(args.out), work / "spiece.model", texts)
    print(json.dumps({**saved["state"], "bytes": size}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["vocabulary", "train", "export"])
    parser.add_argument("--corpus", help="gzipped JSONL with a text field: the books")
    parser.add_argument("--out", default="lora_s2s/demo/base")
    parser.add_argument("--work", default="base-run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=85)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--decay-from", type=float, default=2.0)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--batch-tokens", type=int, default=2800)
    parser.add_argument("--mixture", default="curriculum", choices=["curriculum", "full"])
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--probes", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    {"vocabulary": vocabulary, "train": train, "export": export_base}[options.command](options)
