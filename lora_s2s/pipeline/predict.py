"""Answers to texts and rows. Heavy to import."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path

from lora_s2s.console import ProgressLine, say
from lora_s2s.errors import DataError, Stopped, UsageError
from lora_s2s.evaluation.mbr import decode
from lora_s2s.examples.template import PromptTemplate
from lora_s2s.files import sha256_file
from lora_s2s.inference.decode import Prediction
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.score import score
from lora_s2s.outputs import appears_whole
from lora_s2s.pipeline.inputs import Inputs, Placed
from lora_s2s.pipeline.predictions import N_BEST, PREDICTION, Answer, write_answers
from lora_s2s.pipeline.ranking import FIELDS, LabelChoice, Ranking, Weighing, rank
from lora_s2s.pipeline.unfinished import Unfinished

# Inputs in memory, sorted by length among themselves; what a kill may cost.
_ROWS_AT_ONCE = 1024


def rendered(predictor: Predictor, placed: Placed) -> str:
    """Returns the encoder's text of an input; an error says which one.

    Raises:
        DataError: a row lacks a column, or holds something other than text in it.
    """
    item, place = placed
    try:
        return predictor.render(item)
    except DataError as error:
        raise DataError(error.message, hint=error.hint, where=place) from error


def check_inputs(predictor: Predictor, inputs: Inputs) -> None:
    """Renders every input once, before hours go into the first ones, and reports the template:
    which is applied, and to which texts it was already.

    Raises:
        DataError: a row lacks a column, or holds something other than text in it.
    """
    settings = predictor.settings
    template, listed = settings.first_template, settings.template
    prompt = None if template is None else PromptTemplate.of(template).templates[0]
    begun = 0
    for item, place in inputs:
        rendered(predictor, (item, place))
        if prompt is not None:
            begun += prompt.begun({prompt.first: item} if isinstance(item, str) else item)
    if template is None or prompt is None:
        return
    which = f" 1 of {len(listed)}" if isinstance(listed, list | tuple) and len(listed) > 1 else ""
    say(f"template{which}: {template}")
    if begun:
        say(
            f"{begun:,} of {inputs.count:,} inputs begin with '{prompt.opening}' already: it "
            "stands once there"
        )


def answers_to(
    predictor: Predictor,
    inputs: Inputs,
    settings: DecodingSettings,
    *,
    choice: LabelChoice | None = None,
    skip: int = 0,
) -> Iterator[list[Answer]]:
    """Yields the answers to inputs in order, some at a time, with a progress line.

    Args:
        choice: answer with the most likely of these labels, and with the probability of each.
        skip: how many inputs from the first on are left out.
    """
    placed = islice(inputs, skip, None)
    done, shown, cut = skip, inputs.count > 1, 0
    with ProgressLine("predict") as line:

        def progress(answered: int, _: int) -> None:
            line.update({}, done=done + answered, total=inputs.count)

        while some := list(islice(placed, _ROWS_AT_ONCE)):
            sources = [rendered(predictor, one) for one in some]
            watch = progress if shown else None
            if choice is None:
                answers = decode(predictor, sources, settings, watch)
                cut += sum(not answer.stopped for answer in answers)
                yield [_answer(answer) for answer in answers]
            else:
                lists = [choice.labels] * len(sources)
                scored = score(predictor, sources, lists, settings, watch)
                yield [rank(scores, choice.weighing).to_dict() for scores in scored]
            done += len(some)
    if cut:
        limit = predictor.within_positions(settings).max_new_tokens
        say(f"{cut:,} of {done - skip:,} answers were cut: evaluation.max_new_tokens={limit}")


def _answer(prediction: Prediction) -> Answer:
    if not prediction.n_best:
        return prediction.text
    return {PREDICTION: prediction.text, N_BEST: list(prediction.n_best)}


def gained(settings: DecodingSettings, choice: LabelChoice | None) -> Sequence[str]:
    """Returns the fields that a row gains beside ``prediction``."""
    if choice is not None:
        return FIELDS
    return (N_BEST,) if settings.n_best else ()


def rankings(
    predictor: Predictor,
    placed: Sequence[Placed],
    candidates: Sequence[Sequence[str]],
    settings: DecodingSettings,
    weighing: Weighing,
) -> list[Ranking]:
    """Ranks the candidates of each input, with a progress line for several."""
    sources = [rendered(predictor, one) for one in placed]
    with ProgressLine("score") as line:

        def progress(done: int, total: int) -> None:
            line.update({}, done=done, total=total)

        shown = progress if len(placed) > 1 else None
        scored = score(predictor, sources, candidates, settings, shown)
    return [rank(scores, weighing) for scores in scored]


def answer_into(
    output: Path,
    predictor: Predictor,
    inputs: Inputs,
    settings: DecodingSettings,
    *,
    choice: LabelChoice | None = None,
    resume: bool,
) -> None:
    """Answers inputs into a file, which appears when it is complete.

    Until then the answers are in ``OUTPUT.part``, which a later call continues.

    Args:
        choice: see :func:`answers_to`.
        resume: continue what an earlier call left; see :class:`Unfinished`.

    Raises:
        UsageError: an earlier call left answers and ``resume`` is false, or something changed.
        Stopped: stopped by Ctrl-C, with some answers kept.
    """
    more = gained(settings, choice)
    if not appears_whole(output):
        if resume:
            raise UsageError(f"{output} is not a file that could be continued")
        answers = answers_to(predictor, inputs, settings, choice=choice)
        write_answers(output, inputs, chain.from_iterable(answers), more)
        return
    identity = _identity(predictor, inputs, choice.to_dict() if choice else asdict(settings))
    kept = Unfinished(output, identity, resume=resume)
    if kept.count:
        say(f"continuing: {kept.count:,} of {inputs.count:,} inputs are answered")
    try:
        for some in answers_to(predictor, inputs, settings, choice=choice, skip=kept.count):
            if len(some) == inputs.count:  # all at once: nothing to keep
                write_answers(output, inputs, some, more)
                return
            kept.add(some)
    except KeyboardInterrupt as interrupt:
        if not kept.count:
            raise
        raise Stopped(
            signal.SIGINT,
            f"stopped: {kept.count:,} of {inputs.count:,} inputs are answered in {kept.path}",
            hint="the same command with --resume continues",
        ) from interrupt
    write_answers(output, inputs, kept, more)
    kept.remove()


def _identity(
    predictor: Predictor, inputs: Inputs, settings: Mapping[str, object]
) -> dict[str, object]:
    """Returns what answers depend on."""
    content = (
        sha256_file(inputs.file)
        if inputs.file is not None and inputs.file.is_file()
        else [item for item, _ in inputs]
    )
    return answers_identity(predictor.name, content, settings)


def answers_identity(
    model: str, content: object, settings: Mapping[str, object]
) -> dict[str, object]:
    """Returns what answers of a model to some content depend on."""
    folder = Path(model).expanduser()
    files = sorted([*folder.glob("*"), *folder.glob("onnx/*")])
    stats = [(path.name, path.stat()) for path in files if path.is_file()]
    # Scores, card and report of an adapter change when it is scored.
    weights = [
        [name, about.st_size, about.st_mtime_ns]
        for name, about in stats
        if name.endswith((".safetensors", ".bin", ".onnx", "config.json"))
    ]
    return {
        "input": content,
        "model": [model, weights],
        "decoding": {key: value for key, value in settings.items() if key != "batch_tokens"},
    }
