"""Minimum Bayes risk against greedy search and beams: is the answer that agrees most with 15 others
a better one, by which metric, and how sure.

    python benchmarks/mbr.py ADAPTER=TEST.jsonl …        writes benchmarks/results/mbr-cpu.json

TEST.jsonl has `source` and `target`; a source may come several times. A fixed random sample of the
sources is answered greedily, by 4 and by 16 beams, and 16 times by sampling, at several
temperatures; then the samples and the 16 beams are chosen from by several metrics. Every way is
compared with greedy search as `eval --against` does: the difference in points with its 95 %
interval, paired by source, and the p-value of approximate randomisation. Each way is written when
it is done; one that is in the file already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from train_and_score import RESULTS

from lora_s2s.evaluation.evaluate import group_references, sample_places
from lora_s2s.evaluation.mbr import choose
from lora_s2s.evaluation.measured import Measured
from lora_s2s.evaluation.metrics import compare, measure, scores_of
from lora_s2s.files import write_json
from lora_s2s.inference.decode import candidates, decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.records import AdapterManifest

METRICS = ("bleu", "chrf", "rougeL", "exact_match")
UTILITIES = ("chrf", "bleu")
SAMPLES = 16
SAMPLING = (
    {"temperature": 0.5},
    {"temperature": 0.7},
    {"temperature": 0.3},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.9},
)


@dataclass
class Task:
    """Answers to the same sources by several ways, and what is written of each."""

    references: Sequence[Sequence[str]]
    write: Callable[[dict[str, Any]], None]
    entries: dict[str, Any]
    greedy: dict[str, Measured] = field(default_factory=dict)

    def add(self, name: str, seconds: float, answers: Sequence[str]) -> None:
        """Scores a way's answers, and compares them with greedy search."""
        system = measure(answers, self.references, METRICS)
        self.greedy = self.greedy or system
        gaps = {} if system is self.greedy else compare(system, self.greedy)
        entry: dict[str, Any] = {"cpu_seconds": round(seconds, 2)}
        for metric, score in scores_of(system).items():
            entry[metric] = {"value": round(score.value, 2)}
            if gap := gaps.get(metric):
                ends = [round(end, 2) for end in gap.interval]
                more = {"difference": round(gap.value, 2), "interval": ends}
                entry[metric] |= more | {"p_value": round(gap.p_value, 5)}
        self.entries[name] = entry
        self.write(self.entries)
        print(f"{name}: {json.dumps(entry)}", flush=True)


def run(adapter: str, path: Path, limit: int, out: Path) -> None:
    """Answers a task's sources by every way that is not in the file yet."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = group_references([row["source"] for row in rows], [row["target"] for row in rows])
    places = sample_places(len(pairs[0]), limit)
    texts, references = ([side[place] for place in places] for side in pairs)
    predictor = load_predictor(adapter)
    sources = [predictor.render({"source": text}) for text in texts]
    plain = DecodingSettings(AdapterManifest.read(Path(adapter)).input.answer_limit or 128)
    name = Path(adapter).name
    results = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    about = {"sources": len(sources), "max_new_tokens": plain.max_new_tokens}

    def write(entries: dict[str, Any]) -> None:
        write_json(out, {**results, name: {**about, "ways": entries}})

    task = Task(references, write, dict(results.get(name, {}).get("ways", {})))
    for beams in (1, 4, 16):
        way = "greedy" if beams == 1 else f"{beams} beams"
        if beams == 1 or way not in task.entries:
            begin = time.process_time()
            decoded = decode(predictor, sources, replace(plain, num_beams=beams))
            task.add(way, time.process_time() - begin, [answer.text for answer in decoded])
    among = [{"num_beams": 16}, *SAMPLING]
    for asked in among:
        words = ", ".join(f"{key} {value:g}" for key, value in asked.items() if key != "num_beams")
        drawn = f"{SAMPLES} samples, {words}" if words else "16 beams"
        if f"MBR with {UTILITIES[-1]} over {drawn}" in task.entries:
            continue
        settings = replace(plain, mbr="chrf", mbr_candidates=SAMPLES, **asked)
        begin = time.process_time()
        answered = candidates(predictor, sources, settings)
        seconds = time.process_time() - begin
        several = [[answer.text for answer in answers] for answers in answered]
        task.add(f"first of {drawn}", seconds, [answers[0] for answers in several])
        for utility in UTILITIES:
            begin = time.process_time()
            chosen = choose(several, utility, sources)
            picked = [answers[place] for answers, place in zip(several, chosen, strict=True)]
            task.add(f"MBR with {utility} over {drawn}", time.process_time() - begin, picked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("tasks", nargs="+", metavar="ADAPTER=TEST.jsonl")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS / "mbr-cpu.json")
    asked = parser.parse_args()
    for task in asked.tasks:
        adapter, _, path = task.partition("=")
        run(adapter, Path(path), asked.limit, asked.out)


if __name__ == "__main__":
    main()
