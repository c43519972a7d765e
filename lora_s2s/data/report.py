"""What ``prepare`` found, for people: pairs as the model sees them, advice, and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_s2s.console import counted
from lora_s2s.data.prepared import SplitTable
from lora_s2s.data.survey import SIDES
from lora_s2s.files import write_text
from lora_s2s.page import escaped, fact_list, html_table, page, section
from lora_s2s.tokens.lossless import rows_carrying
from lora_s2s.tokens.tokenise import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECES = 300
# Advice is given from this share of the rows on.
_ADVISED = 0.01
_LONG_TARGET = 256
_OTHER_BASES = "a base that reads bytes (google/byt5-small) or more scripts (google/mt5-small) holds"


def pairs_shown(
    table: SplitTable, tokenizer: PreTrainedTokenizerBase, carried: Sequence[str], count: int
) -> list[dict[str, Any]]:
    """Returns some pairs, spread over the split: text and pieces of both sides, specials and cuts included."""
    rows = [table.features(index) for index in range(0, len(table), max(1, len(table) // max(1, count)))[:count]]
    names = dict(enumerate(carried, start=len(tokenizer) - rows_carrying(carried)))
    return [
        {side: _side(ids, tokenizer, names) for side, ids in zip(SIDES, (row.input_ids, row.labels), strict=True)}
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


def advice(report: Mapping[str, Any], limits: Mapping[str, Any], *, spare: bool) -> list[str]:
    """Returns what a user might do about the data, a sentence each.

    Args:
        spare: whether the base has spare rows for ``data.lossless_text``.
    """
    said = [_about_limit(report, side, limits[f"max_{side}_tokens"]) for side in SIDES]
    said += [_about_lost(report, side, spare=spare) for side in reversed(SIDES)]
    pairs = max(1, report["rows"]["kept"])
    if report["near_duplicates"] > 0.01 * pairs:
        alike, verb = report["near_duplicates"], "differs" if report["near_duplicates"] == 1 else "differ"
        said.append(f"{counted(alike, 'pair')} {verb} from another in case, spaces or punctuation only")
    if report["target_in_source"] > 0.5:
        said.append(f"{report['target_in_source']:.0%} of the targets stand in their source: is copying what is meant?")
    most = max(report["classes"].values(), default=0)
    if most > 0.9 * report["splits"]["train"]:
        said.append(f"one target makes up {most / report['splits']['train']:.0%} of the training rows")
    return [sentence for sentence in said if sentence]


def limit_warnings(report: Mapping[str, Any]) -> list[str]:
    """Returns warnings on long targets and on what a limit cuts."""
    longer, limit = report["longer_than"]["target"], report["limits"]["max_target_tokens"]
    long, rows = longer.get(str(_LONG_TARGET), 0), max(1, report["rows"]["kept"])
    warnings = []
    if long > _ADVISED:
        warnings.append(
            f"{long:.0%} of the targets have more than {_LONG_TARGET} tokens, "
            f"the longest {report['target_tokens']['max']:,}: "
            f"with data.max_target_tokens={limit['tokens']} training takes more memory, and an answer as many steps"
        )
    cut = report["truncated"]["target"] / rows
    if cut > _ADVISED:
        warnings.append(
            f"{cut:.0%} of the targets are cut after {limit['tokens']:,} tokens, "
            "and answers learn to go on without end: "
            f"--set data.max_target_tokens={report['suggested']['max_target_tokens']}"
        )
    return warnings


def _about_limit(report: Mapping[str, Any], side: str, limit: int) -> str:
    longer, wanted = report["longer_than"][side].get(str(limit), 0), report["suggested"][f"max_{side}_tokens"]
    if wanted <= limit or report[f"{side}_tokens"]["max"] <= limit:
        return ""
    share = f"{longer:.1%}" if longer else "some"
    return f"{share} of the {side}s are longer than {limit} tokens: --set data.max_{side}_tokens={wanted} spares most"


def _about_lost(report: Mapping[str, Any], side: str, *, spare: bool) -> str:
    lost = report["lost_characters"][side]
    if not lost["count"]:
        return ""
    shown = " ".join(repr(one["character"]) for one in lost["characters"][:8])
    them, most = ("it", "it") if lost["different"] == 1 else ("them", "the most frequent of them")
    sentence = f"the {side}s lose {counted(lost['count'], 'character')} this vocabulary lacks ({shown})"
    if report["lossless_text"] or not spare:
        return f"{sentence}; {_OTHER_BASES} {them}"
    return f"{sentence}: --set data.lossless_text=on carries {most}"


def write_page(path: Path, report: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``report.html``."""
    rows, splits = report["rows"], report["splits"]
    lead = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    body = [
        f'<h1>Prepared data</h1><p class="lead">{escaped(lead)}; {rows["rejected"]:,} of {rows["read"]:,} left out</p>',
        section("Advice", "".join(f"<p>{escaped(sentence)}</p>" for sentence in report["advice"])),
        section("Pairs, as the model sees them", "".join(map(_pair, pairs))),
        section("Lengths", "".join(_lengths(report, side) for side in SIDES)),
        section("Left out", _counts(("Reason", "Rows"), rows["by_reason"])),
        section("Characters", "".join(_characters(report, side) for side in SIDES)),
        section("Targets", _counts(("Target", "Rows"), report["classes"])),
        section("Facts", _facts(report)),
    ]
    write_text(path, page("Prepared data", "\n".join(body)))


def _pair(pair: Mapping[str, Any]) -> str:
    chips = {side: "".join(f"<b>{escaped(piece)}</b>" for piece in pair[side]["pieces"]) for side in SIDES}
    return (
        f'<p class="pieces">{chips["source"]}</p><p class="pieces loss">{chips["target"]}</p>'
        f'<p class="note">source: {counted(pair["source"]["tokens"], "token")}, no loss · '
        f"target: {counted(pair['target']['tokens'], 'token')}, the loss is on each</p>"
    )


def _lengths(report: Mapping[str, Any], side: str) -> str:
    bars = report["histogram"][side]
    most = max((count for _, count in bars), default=1)
    drawn = "".join(
        f'<i style="height:{100 * count / most:.1f}%" title="from {counted(first, "token")}: {counted(count, "row")}">'
        "</i>"
        for first, count in bars
    )
    quantiles = ", ".join(f"{name} {value:,}" for name, value in report[f"{side}_tokens"].items())
    longer = [f"<td>{limit}</td><td>{share:.2%}</td>" for limit, share in report["longer_than"][side].items()]
    table = html_table(("Limit", "Longer than it"), longer) if longer else ""
    suggested = report["suggested"][f"max_{side}_tokens"]
    return (
        f'<p>{side.title()} tokens: {quantiles}; suggested limit {suggested:,}</p><div class="histogram">{drawn}</div>'
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
        f"<td>{escaped(one['character'])}</td><td>{one['code']} {escaped(one['name'])}</td><td>{one['count']:,}</td>"
        f"<td>{escaped(one['becomes'])}</td>"
        for one in lost["characters"]
    ]
    verb = "does" if lost["count"] == 1 else "do"
    head = f"<p>Of the {side}s, {counted(lost['count'], 'character')} ({lost['different']:,} different) {verb} not.</p>"
    return head + html_table(("", "Character", "Times", "Becomes"), cells)


def _facts(report: Mapping[str, Any]) -> str:
    facts = {
        "exact duplicates": f"{report['duplicates']:,}",
        "alike but for case, spaces, punctuation": f"{report['near_duplicates']:,}",
        "held-out rows whose source stood in train": f"{report['leaked']:,}",
        "targets that stand in their source": f"{report['target_in_source']:.1%}",
        "cut": ", ".join(counted(report["truncated"][side], side) for side in SIDES),
        "spaces side by side that become one": ", ".join(
            f"{report['lost_runs_of_spaces'][side]:,} in {side}s" for side in SIDES
        ),
        "unknown tokens": ", ".join(f"{report['unknown_tokens'][side]:.3%} of {side}s" for side in SIDES),
        "language, a guess": ", ".join(f"{side}s {report['languages'][side] or '?'}" for side in SIDES),
        "carried by spare rows": " ".join(repr(text) for text in report["lossless_text"] if text) or "nothing",
    }
    return fact_list(facts.items())
