"""What ``prepare`` found, for people: pairs as the model sees them, advice, and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_s2s.console import counted
from lora_s2s.data.characters import DataTokenizer
from lora_s2s.data.prepared import SplitTable
from lora_s2s.data.survey import SIDES
from lora_s2s.files import write_text
from lora_s2s.page import escaped, fact_list, html_table, page, section
from lora_s2s.tokens.lossless import rows_carrying
from lora_s2s.tokens.tokenise import Ids

_PIECES = 300
# Advice is given from this share of the rows on.
_ADVISED = 0.01
_LONG_TARGET = 256
_ONE_TARGET, _IMBALANCE = 0.9, 20
_OTHER_BASES = (
    "a base that reads bytes (google/byt5-small) or more scripts (google/mt5-small) holds"
)


def pairs_shown(table: SplitTable, made: DataTokenizer, count: int) -> list[dict[str, Any]]:
    """Returns some pairs, spread over the split: text and pieces of both sides, specials and cuts
    included.
    """
    rows = [
        table.features(index)
        for index in range(0, len(table), max(1, len(table) // max(1, count)))[:count]
    ]
    tokenizer, carried = made.tokenizer, made.carried
    names = dict(enumerate(carried, start=len(tokenizer) - rows_carrying(carried)))
    return [
        {
            side: _side(ids, tokenizer, names)
            for side, ids in zip(SIDES, (row.input_ids, row.labels), strict=True)
        }
        for row in rows
    ]


def _side(ids: Ids, tokenizer: Any, names: Mapping[int, str]) -> dict[str, Any]:
    shown = [int(token) for token in ids[:_PIECES]]
    pieces = zip(shown, tokenizer.convert_ids_to_tokens(shown), strict=True)
    return {
        "text": str(tokenizer.decode(ids)),
        "pieces": [names.get(token, piece) or "(escape)" for token, piece in pieces],
        "tokens": len(ids),
    }


def advice(report: Mapping[str, Any], *, spare: bool) -> list[str]:
    """Returns what a user might do about the data, a sentence each.

    Args:
        spare: whether the base has spare rows for ``data.lossless_text``.
    """
    said = [_about_limit(report, side) for side in SIDES]
    said += [_about_lost(report, side, spare=spare) for side in reversed(SIDES)]
    pairs = max(1, report["rows"]["kept"])
    if report["near_duplicates"] > 0.01 * pairs:
        alike, verb = (
            report["near_duplicates"],
            "differs" if report["near_duplicates"] == 1 else "differ",
        )
        said.append(
            f"{counted(alike, 'pair')} {verb} from another in case, spaces or punctuation only"
        )
    if report["identical"] > _ADVISED * pairs:
        said.append(
            f"{report['identical'] / pairs:.0%} of the targets equal their source: is copying what "
            "is meant?"
        )
    said += [_about_classes(report), _about_leaks(report)]
    return [sentence for sentence in said if sentence]


def _about_classes(report: Mapping[str, Any]) -> str:
    """One target in most rows, or labels of which the rarest is far behind the commonest."""
    counts = sorted(report["classes"].values(), reverse=True)
    rows = report["splits"]["train"]
    if counts and counts[0] > _ONE_TARGET * rows:
        return f"one target makes up {counts[0] / rows:.0%} of the training rows"
    labels = report["labels"]
    if labels and labels["least"] * _IMBALANCE < labels["most"]:
        return (
            f"{labels['count']:,} labels, the commonest in {counted(labels['most'], 'row')}, the "
            f"rarest in {counted(labels['least'], 'row')}: compare macro-F1, not accuracy alone"
        )
    return ""


def _about_leaks(report: Mapping[str, Any]) -> str:
    leaks, held = (
        report["near_leaks"],
        sum(n for split, n in report["splits"].items() if split != "train"),
    )
    if leaks <= _ADVISED * held:
        return ""
    share = f"{counted(leaks, 'held-out row')} ({leaks / held:.0%})"
    return (
        f"{share} with a source that stands in train but for case, spaces or punctuation: scores "
        "may flatter"
    )


def limit_warnings(report: Mapping[str, Any]) -> list[str]:
    """Returns warnings on long targets and on what a limit cuts."""
    longer, limit = report["longer_than"]["target"], report["limits"]["max_target_tokens"]
    long, rows = longer.get(str(_LONG_TARGET), 0), max(1, report["rows"]["kept"])
    warnings = []
    if long > _ADVISED:
        warnings.append(
            f"{long:.0%} of the targets have more than {_LONG_TARGET} tokens, the longest "
            f"{report['target_tokens']['max']:,}: with data.max_target_tokens={limit['tokens']} "
            "training takes more memory, and an answer as many steps"
        )
    cut = report["truncated"]["target"] / rows
    if cut > _ADVISED:
        warnings.append(
            f"{cut:.0%} of the targets are cut after {limit['tokens']:,} tokens, and answers learn "
            "to go on without end: --set "
            f"data.max_target_tokens={report['suggested']['max_target_tokens']}"
        )
    return warnings


def _about_limit(report: Mapping[str, Any], side: str) -> str:
    key = f"max_{side}_tokens"
    limit, wanted = report["limits"][key]["tokens"], report["suggested"][key]
    longer = report["longer_than"][side].get(str(limit), 0)
    if wanted <= limit or report[f"{side}_tokens"]["max"] <= limit:
        return ""
    share = f"{longer:.1%}" if longer else "some"
    cut = f"{share} of the {side}s are longer than {limit} tokens"
    needed = report.get("suggested_bytes", {}).get(side)
    if needed is None:
        return f"{cut}: --set data.max_{side}_tokens={wanted} spares most"
    return (
        f"{cut}; {wanted:,} would spare most, but training on one such row takes about "
        f"{needed / 1e9:,.0f} GB: cut the texts into parts, a row each, or take a base for long "
        "inputs (google/long-t5-tglobal-base)"
    )


def _about_lost(report: Mapping[str, Any], side: str, *, spare: bool) -> str:
    lost = report["lost_characters"][side]
    if not lost["count"]:
        return ""
    shown = " ".join(repr(one["character"]) for one in lost["characters"][:8])
    them, most = ("it", "it") if lost["different"] == 1 else ("them", "the most frequent of them")
    sentence = (
        f"the {side}s lose {counted(lost['count'], 'character')} this vocabulary lacks ({shown})"
    )
    if report["lossless_text"] or not spare:
        return f"{sentence}; {_OTHER_BASES} {them}"
    return f"{sentence}: --set data.lossless_text=on carries {most}"


def write_page(path: Path, report: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``report.html``; its title is the training data's."""
    name = "Prepared data: " + ", ".join(Path(file).name for file in report["files"]["train"][:3])
    rows, splits = report["rows"], report["splits"]
    lead = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    body = [
        f"<h1>{escaped(name)}</h1>",
        f'<p class="lead">{escaped(lead)}; {rows["rejected"]:,} of {rows["read"]:,} left out</p>',
        section(
            "Advice",
            "".join(f"<p>{escaped(text)}</p>" for text in (*report["warnings"], *report["advice"])),
        ),
        section("Data", _data(report)),
        section("Pairs, as the model sees them", "".join(map(_pair, pairs))),
        section("Lengths", "".join(_lengths(report, side) for side in SIDES)),
        section("Left out", _counts(("Reason", "Rows"), rows["by_reason"])),
        section("Characters", "".join(_characters(report, side) for side in SIDES)),
        section("Targets", _counts(("Target", "Rows"), report["classes"])),
        section("Facts", _facts(report)),
    ]
    write_text(path, page(name, "\n".join(body)))


def _data(report: Mapping[str, Any]) -> str:
    """The files, columns and settings that a folder was prepared from."""
    limits = [
        f"{key} {limit['tokens']:,} ({limit['by']})" for key, limit in report["limits"].items()
    ]
    columns = report["columns"]
    facts = {
        **{f"{split} files": ", ".join(files) for split, files in report["files"].items()},
        "columns": report["columns_line"].removeprefix("columns: "),
        "format": columns["format"],
        "template": str(columns["template"] or "none"),
        "limits": ", ".join(limits),
    }
    return fact_list(facts.items())


def _pair(pair: Mapping[str, Any]) -> str:
    chips = {
        side: "".join(f"<b>{escaped(piece)}</b>" for piece in pair[side]["pieces"])
        for side in SIDES
    }
    return (
        f'<p class="pieces">{chips["source"]}</p><p class="pieces loss">{chips["target"]}</p>'
        f'<p class="note">source: {counted(pair["source"]["tokens"], "token")}, no loss · '
        f"target: {counted(pair['target']['tokens'], 'token')}, the loss is on each</p>"
    )


def _lengths(report: Mapping[str, Any], side: str) -> str:
    bars = report["histogram"][side]
    most = max((count for _, count in bars), default=1)
    last = bars[-1][0] if bars else 0
    drawn = "".join(
        f'<i style="height:{100 * count / most:.1f}%" title="from {counted(first, "token")}: '
        f'{counted(count, "row")}">'
        "</i>"
        for first, count in bars
    )
    quantiles = ", ".join(f"{name} {value:,}" for name, value in report[f"{side}_tokens"].items())
    longer = [
        f"<td>{limit}</td><td>{share:.2%}</td>"
        for limit, share in report["longer_than"][side].items()
    ]
    table = html_table(("Limit", "Longer than it"), longer) if longer else ""
    suggested = report["suggested"][f"max_{side}_tokens"]
    return (
        f"<p>{side.title()} tokens: {quantiles}; suggested limit {suggested:,}</p>"
        f'<p class="axis"><i>{counted(most, "row")}</i></p><div class="histogram">{drawn}</div>'
        f'<p class="axis"><i>0 tokens</i><i>{last:,} and more</i></p>'
        f"{table}"
    )


def _counts(heads: tuple[str, str], counts: Mapping[str, int]) -> str:
    cells = [f"<td>{escaped(name)}</td><td>{count:,}</td>" for name, count in counts.items()]
    return html_table(heads, cells) if cells else ""


def _characters(report: Mapping[str, Any], side: str) -> str:
    lost = report["lost_characters"][side]
    if not lost["count"]:
        return f"<p>Every character of the {side}s comes back as written.</p>"
    cells = [
        f"<td>{escaped(one['character'])}</td><td>{one['code']} "
        f"{escaped(one['name'])}</td><td>{one['count']:,}</td>"
        f"<td>{escaped(one['becomes'])}</td>"
        for one in lost["characters"]
    ]
    verb = "does" if lost["count"] == 1 else "do"
    head = (
        f"<p>Of the {side}s, {counted(lost['count'], 'character')} ({lost['different']:,} "
        f"different) {verb} not.</p>"
    )
    return head + html_table(("", "Character", "Times", "Becomes"), cells)


def _facts(report: Mapping[str, Any]) -> str:
    facts = {
        "exact duplicates": f"{report['duplicates']:,}",
        "alike but for case, spaces, punctuation": f"{report['near_duplicates']:,}",
        "held-out rows whose source stood in train": f"{report['leaked']:,}",
        "alike across splits but for case, spaces, punctuation": (
            f"{report['near_leaks']:,} held-out rows"
        ),
        "targets that stand in their source": f"{report['target_in_source']:.1%}",
        "targets that equal their source": f"{report['identical']:,}",
        "cut": ", ".join(counted(report["truncated"][side], side) for side in SIDES),
        "spaces side by side that become one": ", ".join(
            f"{report['lost_runs_of_spaces'][side]:,} in {side}s" for side in SIDES
        ),
        "unknown tokens": ", ".join(
            f"{report['unknown_tokens'][side]:.3%} of {side}s" for side in SIDES
        ),
        "language, a guess": ", ".join(
            f"{side}s {report['languages'][side] or '?'}" for side in SIDES
        ),
        "carried by spare rows": " ".join(repr(text) for text in report["lossless_text"] if text)
        or "nothing",
    }
    return fact_list(facts.items())
