"""Minimum Bayes risk against greedy search and beams: is the answer that agrees most with others
among 16 samples a better one, by which metric, and how sure.

    python benchmarks/mbr.py ADAPTER=TEST.jsonl …        writes benchmarks/results/mbr-cpu.json

TEST.jsonl has `source` and `target`; a source may come several times. A fixed random sample of the
sources is answered greedily, by 4 beams, and 16 times by sampling, at each of two temperatures. The
same samples are then chosen from by several metrics. Every way is compared with greedy search as
`eval --against` does: the difference in points with its 95 % interval, paired by source, and the
p-value of approximate randomisation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train_and_score import RESULTS

from lora_s2s.evaluation.evaluate import group_references, sample_places
from lora_s2s.evaluation.mbr import choose
from lora_s2s.evaluation.metrics import compare, measure, scores_of
from lora_s2s.inference.decode import candidates, decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.loading import load_predictor
from lora_s2s.records import AdapterManifest

METRICS = ("bleu", "chrf", "rougeL", "exact_match")
UTILITIES = ("chrf", "bleu", "sqrt(bleu*chrf)", "rougeL")
SAMPLING = ((1.0, 1.0), (0.7, 1.0), (1.0, 0.9))
SAMPLES = 16


def measured(adapter: str, path: Path, limit: int) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = group_references([row["source"] for row in rows], [row["target"] for row in rows])
    places = sample_places(len(pairs[0]), limit)
    texts, references = ([side[place] for place in places] for side in pairs)
    predictor = load_predictor(adapter)
    sources = [predictor.render({"source": text}) for text in texts]
    most = AdapterManifest.read(Path(adapter)).input.answer_limit or 128
    seconds: dict[str, float] = {}
    ways: dict[str, list[str]] = {}

    def timed(name: str, begin: float, answers: Sequence[str]) -> None:
        seconds[name] = round(time.process_time() - begin, 2)
        ways[name] = list(answers)
        print(f"{Path(adapter).name}: {name} {seconds[name]} s", flush=True)

    for name, beams in (("greedy", 1), ("4 beams", 4)):
        begin = time.process_time()
        decoded = decode(predictor, sources, DecodingSettings(most, num_beams=beams))
        timed(name, begin, [answer.text for answer in decoded])
    for temperature, top_p in SAMPLING:
        drawn = f"{SAMPLES} samples, temperature {temperature:g}, top_p {top_p:g}"
        settings = DecodingSettings(
            most, temperature=temperature, top_p=top_p, mbr="chrf", mbr_candidates=SAMPLES
        )
        begin = time.process_time()
        several = [
            [answer.text for answer in answers]
            for answers in candidates(predictor, sources, settings)
        ]
        timed(f"first of {drawn}", begin, [answers[0] for answers in several])
        for utility in UTILITIES:
            begin = time.process_time()
            chosen = choose(several, utility, sources)
            picked = [answers[place] for answers, place in zip(several, chosen, strict=True)]
            timed(f"MBR with {utility} over {drawn}", begin, picked)
    return {
        "sources": len(sources),
        "max_new_tokens": most,
        "ways": compared(ways, references, seconds),
    }


def compared(
    ways: dict[str, list[str]], references: list[list[str]], seconds: dict[str, float]
) -> dict[str, Any]:
    """Each way's scores, and its differences to greedy search."""
    systems = {name: measure(texts, references, METRICS) for name, texts in ways.items()}
    entries: dict[str, Any] = {}
    for name, system in systems.items():
        scores = scores_of(system)
        entry: dict[str, Any] = {"cpu_seconds": seconds[name]}
        gaps = {} if name == "greedy" else compare(system, systems["greedy"])
        for metric in METRICS:
            entry[metric] = {"value": round(scores[metric].value, 2)}
            if gap := gaps.get(metric):
                ends = [round(end, 2) for end in gap.interval]
                entry[metric] |= {"difference": round(gap.value, 2), "interval": ends}
                entry[metric]["p_value"] = round(gap.p_value, 5)
        entries[name] = entry
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="+", metavar="ADAPTER=TEST.jsonl")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS / "mbr-cpu.json")
    asked = parser.parse_args()
    results = {}
    for task in asked.tasks:
        adapter, _, path = task.partition("=")
        results[Path(adapter).name] = measured(adapter, Path(path), asked.limit)
        asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
