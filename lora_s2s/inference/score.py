"""Scores given answers: exact log-probabilities of candidates, in input order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice

from lora_s2s.errors import DataError, UsageError, naming_out_of_memory
from lora_s2s.inference.engine import DecodingSettings, ExportedEngine
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.prefix_tree import Candidate
from lora_s2s.inference.torch_scores import LOGITS_AT_ONCE, log_probs
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.special_tokens import special_token_templates

# Candidates read at once; each has a row of logits.
MOST_CANDIDATES = 512
_LONGEST_SHOWN = 60

Ids = tuple[int, ...]
# A source, and which list of candidates it has.
_Job = tuple[Ids, int]


@dataclass(frozen=True)
class CandidateScores:
    """The candidates of one source in the order given.

    Attributes:
        log_probs: of each, in nats: the sum over its tokens, the end and a language code included,
            which is minus the loss that training would have on it.
        tokens: how many those are.
    """

    candidates: tuple[str, ...]
    log_probs: tuple[float, ...]
    tokens: tuple[int, ...]


def score(
    predictor: Predictor,
    sources: Sequence[str],
    candidates: Sequence[Sequence[str]],
    settings: DecodingSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[CandidateScores]:
    """Scores the candidates of every source. Equal sources with equal candidates are scored once.

    Args:
        sources: encoder texts as :meth:`Predictor.render` gives them.
        candidates: those of each source.
        settings: ``max_new_tokens`` bounds a candidate, ``batch_tokens`` the memory.
        progress: called with (sources done, sources in all).

    Raises:
        DataError: candidates that cannot be told apart or written, see
            :func:`encode_candidates`; or the model's logits are not finite.
        ResourceError: a batch does not fit the memory.
        UsageError: an exported model whose runtime cannot score this family.
    """
    _check_exported(predictor)
    settings = predictor.within_positions(settings or DecodingSettings())
    most = settings.max_new_tokens
    lists = [tuple(texts) for texts in candidates]
    places = {texts: place for place, texts in enumerate(dict.fromkeys(lists))}
    encoded = [encode_candidates(predictor, texts, most_tokens=most) for texts in places]
    rows: list[_Job] = [
        (tuple(predictor.encode(source)), places[texts])
        for source, texts in zip(sources, lists, strict=True)
    ]
    repeats, scores, done = Counter(rows), dict[_Job, list[float]](), 0
    jobs = {job: encoded[job[1]] for job in repeats}
    at_once = _at_once(predictor)
    for group in _groups(jobs, settings.batch_tokens, at_once):
        answers = [jobs[job] for job in group]
        with _explained(len(group), settings.batch_tokens):
            scores.update(zip(group, _scored(predictor, group, answers, at_once), strict=True))
        done += sum(repeats[job] for job in group)
        if progress is not None:
            progress(done, len(rows))
    lengths = [tuple(map(len, ids)) for ids in encoded]
    return [
        CandidateScores(texts, tuple(scores[row]), lengths[row[1]])
        for row, texts in zip(rows, lists, strict=True)
    ]


def answer_log_probs(
    predictor: Predictor,
    rows: Sequence[Ids],
    answers: Sequence[Sequence[Ids]],
    settings: DecodingSettings,
) -> list[list[float]]:
    """Returns the log-probability (nats) of each answer that was decoded: the sum over its ids.

    Args:
        rows: token ids of sources.
        answers: the ids of several answers to each.

    Raises:
        ResourceError: a batch does not fit the memory.
    """
    jobs = {(row, place): [*dict.fromkeys(answers[place])] for place, row in enumerate(rows)}
    at_once = _at_once(predictor)
    scores = dict[_Job, dict[Ids, float]]()
    for group in _groups(jobs, settings.batch_tokens, at_once):
        distinct = [jobs[job] for job in group]
        with _explained(len(group), settings.batch_tokens):
            scored = [*_scored(predictor, group, distinct, at_once)]
        for job, several, values in zip(group, distinct, scored, strict=True):
            scores[job] = dict(zip(several, values, strict=True))
    return [[scores[row, place][ids] for ids in answers[place]] for place, row in enumerate(rows)]


def reference_losses(
    predictor: Predictor,
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    settings: DecodingSettings,
) -> list[tuple[float, int]]:
    """Returns the summed cross-entropy (nats) of the references of each source, the end included,
    and how many tokens they are; equal references of a source count once.

    Args:
        sources: encoder texts as :meth:`Predictor.render` gives them.
        references: those of each source; cut where the model has no further positions.
        settings: ``batch_tokens`` bounds the memory.

    Raises:
        DataError: the model's logits are not finite.
        ResourceError: a batch does not fit the memory.
        UsageError: an exported model whose runtime cannot score this family.
    """
    _check_exported(predictor)
    tokenizer, most = predictor.tokenizer, predictor.max_positions
    frame = special_token_templates(tokenizer).target
    targets: list[list[Ids]] = []
    for texts in references:
        encoded = encode_texts(list(texts), tokenizer, side="text_target")
        targets.append([*dict.fromkeys(tuple(frame.around(ids))[:most] for ids in encoded)])
    rows = [tuple(predictor.encode(source)) for source in sources]
    values = answer_log_probs(predictor, rows, targets, settings)
    return [
        (-math.fsum(logs), sum(map(len, ids))) for logs, ids in zip(values, targets, strict=True)
    ]


def encode_candidates(predictor: Predictor, texts: Sequence[str], *, most_tokens: int) -> list[Ids]:
    """Returns the token ids of candidates, as training reads targets.

    Raises:
        DataError: there are fewer than two, one is empty, too long, has characters that the
            tokenizer lacks, or is the same as another to it.
    """
    if len(texts) < 2:
        only = f"one candidate, {_named(texts[0])}" if texts else "no candidates"
        raise DataError(
            f"{only}: expected at least two to choose between", hint="name all the labels"
        )
    tokenizer, seen = predictor.tokenizer, dict[Ids, str]()
    frame = special_token_templates(tokenizer).target
    encoded = encode_texts(texts, tokenizer, side="text_target")
    for place, (text, bare) in enumerate(zip(texts, encoded, strict=True), start=1):
        ids = tuple(frame.around(bare))
        if not bare:
            raise DataError(f"candidate {place:,} of {len(texts):,} is empty: {_named(text)}")
        if lost := _lost(predictor, text, bare):
            raise DataError(
                f"the tokenizer cannot write {lost} of the candidate {_named(text)}",
                hint="name the label without it, as the model was trained to answer",
            )
        if len(ids) > most_tokens:
            raise DataError(
                f"the candidate {_named(text)} has {len(ids):,} tokens, expected at most "
                f"{most_tokens:,}",
                hint=f"--set evaluation.max_new_tokens={len(ids)}, or shorter candidates",
            )
        other = seen.setdefault(ids, text)
        if len(seen) < place:
            same = "twice" if other == text else f"and {_named(other)}, the same to the tokenizer"
            raise DataError(
                f"the candidates hold {_named(text)} {same}", hint="name each candidate once"
            )
    return list(seen)


def _at_once(predictor: Predictor) -> int:
    """How many candidates are read at once."""
    return max(1, min(MOST_CANDIDATES, LOGITS_AT_ONCE // (predictor.rows or 1)))


def _groups(
    jobs: Mapping[_Job, Sequence[Ids]], batch_tokens: int, most: int
) -> Iterator[list[_Job]]:
    """Groups sources, longest first, so that their candidates are read at once; a source with more
    candidates is alone.
    """
    group, count = list[_Job](), 0
    for job in sorted(jobs, key=lambda job: (-len(job[0]), job)):
        count += len(jobs[job])
        if group and (count > most or count * len(group[0][0]) > batch_tokens):
            yield group
            group, count = [], len(jobs[job])
        group.append(job)
    if group:
        yield group


def _scored(
    predictor: Predictor, group: Sequence[_Job], candidates: Sequence[Sequence[Ids]], most: int
) -> Iterator[list[float]]:
    engine, sources = predictor.engine, [ids for ids, _ in group]
    flat = [Candidate(place, ids) for place, several in enumerate(candidates) for ids in several]
    if isinstance(engine, ExportedEngine):
        repeated = [sources[candidate.source] for candidate in flat]
        # They put the end themselves, after an answer that was cut too.
        end = predictor.tokenizer.eos_token_id
        bare = [len(ids) - (ids[-1] == end) for _, ids in flat]
        given = [ids[:length] for (_, ids), length in zip(flat, bare, strict=True)]
        rows = zip(flat, engine.log_probs(repeated, given), strict=True)
        values = iter([math.fsum(row[: len(ids)]) for (_, ids), row in rows])
    else:
        values = iter(log_probs(predictor.torch, sources, flat, most_rows=most))
    for several in candidates:
        yield [*islice(values, len(several))]


def _check_exported(predictor: Predictor) -> None:
    suffix = special_token_templates(predictor.tokenizer).target.suffix
    if predictor.engine.runtime != "torch" and suffix != (predictor.tokenizer.eos_token_id,):
        raise UsageError(
            f"{predictor.engine.runtime} cannot score answers that end in their language",
            hint="name the model that it was made from",
        )


def _explained(sources: int, batch_tokens: int) -> AbstractContextManager[None]:
    hint = f"--set evaluation.batch_tokens={max(16, batch_tokens // 2)}"
    return naming_out_of_memory(f"out of memory scoring {sources} source(s)", hint=hint)


def _lost(predictor: Predictor, text: str, ids: Sequence[int]) -> str:
    """The first character of a text that becomes an unknown token, quoted; the first word, if the
    vocabulary has whole words only; empty if nothing does.
    """
    tokenizer = predictor.tokenizer
    if tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids:
        return ""
    letters = [*dict.fromkeys("".join(text.split()))]
    lost: list[str] = []
    for parts in (text.split(), letters):
        encoded = encode_texts(parts, tokenizer, side="text_target")
        unknown = [tokenizer.unk_token_id in one for one in encoded]
        found = [part for part, is_lost in zip(parts, unknown, strict=True) if is_lost]
        if not lost or (found and not all(unknown)):
            lost = found
    return repr(lost[0]) if lost else "a part"


def _named(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")
