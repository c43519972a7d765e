"""Texts of ``prepare``'s report: warnings and advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from lora_s2s.console import counted
from lora_s2s.data.survey import SIDES

Report: TypeAlias = Mapping[str, Any]
# Advice is given from this fraction of the rows on.
_ADVISED = 0.01
_LONG_TARGET = 256
_ONE_TARGET, _IMBALANCE = 0.9, 20
_OTHER_BASES = (
    "a base that reads bytes (google/byt5-small) or more scripts (google/mt5-small) keeps"
)


def advice(report: Report, *, spare: bool) -> list[str]:
    """Advice on the data, a sentence each.

    Args:
        spare: whether the base has unused embedding rows for ``data.lossless_text``.
    """
    sentences = [_about_limit(report, side) for side in SIDES]
    sentences += [_about_lost(report, side, spare=spare) for side in reversed(SIDES)]
    pairs = max(1, report["rows"]["kept"])
    if report["near_duplicates"] > 0.01 * pairs:
        alike = counted(report["near_duplicates"], "pair")
        sentences.append(f"{alike} equal to another up to case, spaces and punctuation")
    if report["identical"] > _ADVISED * pairs:
        sentences.append(
            f"{report['identical'] / pairs:.0%} of the targets equal their source: is copying "
            "intended?"
        )
    sentences += [_about_classes(report), _about_leaks(report)]
    return [sentence for sentence in sentences if sentence]


def _about_classes(report: Report) -> str:
    """One target in most rows, or labels with very different frequencies."""
    counts = sorted(report["classes"].values(), reverse=True)
    rows = report["splits"]["train"]
    if counts and counts[0] > _ONE_TARGET * rows:
        return f"one target makes up {counts[0] / rows:.0%} of the training rows"
    labels = report["labels"]
    if labels and labels["least"] * _IMBALANCE < labels["most"]:
        return (
            f"{labels['count']:,} labels, the most frequent in {counted(labels['most'], 'row')}, "
            f"the rarest in {counted(labels['least'], 'row')}: compare macro-F1, not only accuracy"
        )
    return ""


def _about_leaks(report: Report) -> str:
    leaks = report["near_leaks"]
    held = sum(count for split, count in report["splits"].items() if split != "train")
    if leaks <= _ADVISED * held:
        return ""
    share = f"{counted(leaks, 'held-out row')} ({leaks / held:.0%})"
    return (
        f"{share} with a source that differs from one in train only in case, spaces or "
        "punctuation: scores may be too high"
    )


def limit_warnings(report: Report) -> list[str]:
    """Warnings on long and on cut targets."""
    longer, limit = report["longer_than"]["target"], report["limits"]["max_target_tokens"]
    long, rows = longer.get(str(_LONG_TARGET), 0), max(1, report["rows"]["kept"])
    warnings = []
    if long > _ADVISED:
        warnings.append(
            f"{long:.0%} of the targets have more than {_LONG_TARGET} tokens, the longest "
            f"{report['target_tokens']['max']:,}: with data.max_target_tokens={limit['tokens']} "
            "training takes more memory, and an answer takes as many decoding steps"
        )
    cut = report["truncated"]["target"] / rows
    if cut > _ADVISED:
        warnings.append(
            f"{cut:.0%} of the targets are cut after {limit['tokens']:,} tokens, so the model does "
            "not learn to end its answers: --set "
            f"data.max_target_tokens={report['suggested']['max_target_tokens']}"
        )
    return warnings


def _about_limit(report: Report, side: str) -> str:
    key = f"max_{side}_tokens"
    limit, suggested = report["limits"][key]["tokens"], report["suggested"][key]
    longer = report["longer_than"][side].get(str(limit), 0)
    if suggested <= limit or report[f"{side}_tokens"]["max"] <= limit:
        return ""
    share = f"{longer:.1%}" if longer else "some"
    cut = f"{share} of the {side}s are longer than {limit} tokens"
    needed = report.get("suggested_bytes", {}).get(side)
    if needed is None:
        return f"{cut}; to keep most of them: --set data.max_{side}_tokens={suggested}"
    return (
        f"{cut}; {suggested:,} would keep most of them, but training on one such row takes about "
        f"{needed / 1e9:,.0f} GB: split the texts into several rows, or use a base for long inputs "
        "(google/long-t5-tglobal-base)"
    )


def _about_lost(report: Report, side: str, *, spare: bool) -> str:
    lost = report["lost_characters"][side]
    if not lost["count"]:
        return ""
    listed = " ".join(repr(entry["character"]) for entry in lost["characters"][:8])
    them, most = ("it", "it") if lost["different"] == 1 else ("them", "the most frequent of them")
    missing = counted(lost["count"], "character")
    sentence = f"the {side}s lose {missing} that the vocabulary lacks ({listed})"
    if report["lossless_text"] or not spare:
        return f"{sentence}; {_OTHER_BASES} {them}"
    return f"{sentence}; to keep {most}: --set data.lossless_text=on"
