"""Answers to texts and rows. Heavy to import."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

from lora_s2s.console import ProgressLine, say, warn
from lora_s2s.errors import DataError, UsageError
from lora_s2s.evaluation.mbr import decode
from lora_s2s.examples.template import PromptTemplate
from lora_s2s.files import sha256_file
from lora_s2s.inference.decode import Prediction, Progress, choose_decoder
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.inference.score import score
from lora_s2s.outputs import appears_whole
from lora_s2s.pipeline.identity import answers_identity, same_everywhere
from lora_s2s.pipeline.inputs import Inputs, Placed
from lora_s2s.pipeline.predictions import (
    N_BEST,
    PREDICTION,
    Answer,
    lines_of,
    write_answers,
)
from lora_s2s.pipeline.ranking import FIELDS, LabelChoice, Ranking, Weighing, rank
from lora_s2s.pipeline.ranks import ALONE, Ranks
from lora_s2s.pipeline.unfinished import Unfinished

# Inputs in memory, sorted by length among themselves; what a kill may cost. Several processes take
# turns by such groups: with other neighbours, the last digits of a probability could differ.
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
    which is applied, and to which texts it was already. Those without a text are counted.

    Raises:
        DataError: a row lacks a column, or holds something other than text in it.
    """
    settings = predictor.settings
    template, listed = settings.first_template, settings.template
    prompt = None if template is None else PromptTemplate.of(template).templates[0]
    begun, blanks = 0, list[str]()
    for item, place in inputs:
        if predictor.is_blank(item):
            blanks.append(place)
            continue
        rendered(predictor, (item, place))
        if prompt is not None:
            begun += prompt.begun({prompt.first: item} if isinstance(item, str) else item)
    if blanks:
        count = f"inputs without a text: {len(blanks):,} of {inputs.count:,}"
        warn(f"{count}, the first at {blanks[0]}; their predictions are empty")
    if template is None or prompt is None:
        return
    which = f" 1 of {len(listed)}" if isinstance(listed, list | tuple) and len(listed) > 1 else ""
    say(f"template{which}: {template}")
    if begun:
        say(
            f"{begun:,} of {inputs.count:,} inputs begin with '{prompt.opening}' already: it "
            "stands once there"
        )


@dataclass
class Work:
    """Inputs and how they are answered.

    Attributes:
        choice: answer with the most likely of these labels, and with the probability of each.
        ranks: the processes that answer together, of which the first writes.
        blanks: answer rows without a source with an empty text; else they are an error.
    """

    predictor: Predictor
    inputs: Inputs
    settings: DecodingSettings
    choice: LabelChoice | None = None
    ranks: Ranks = ALONE
    blanks: bool = False
    _cut: int = field(default=0, init=False)

    @property
    def gained(self) -> Sequence[str]:
        """The fields that a row gains beside ``prediction``."""
        if self.choice is not None:
            return FIELDS
        return (N_BEST,) if self.settings.n_best else ()

    @cached_property
    def identity(self) -> dict[str, object]:
        """What the answers depend on."""
        inputs, choice = self.inputs, self.choice
        content = (
            sha256_file(inputs.file)
            if inputs.file is not None and inputs.file.is_file()
            else [item for item, _ in inputs]
        )
        settings = choice.to_dict() if choice else asdict(self.settings)
        return answers_identity(self.predictor.name, content, settings)

    def answers(self, skip: int = 0) -> Iterator[list[Answer]]:
        """Yields the answers in order, some at a time, with a progress line; in processes after the
        first it yields nothing.

        Args:
            skip: how many inputs from the first on are left out; the first process's counts.

        Raises:
            UsageError: processes differ in their inputs, model or settings.
        """
        inputs, ranks = self.inputs, self.ranks
        if ranks.count > 1:
            ranks.check_same(same_everywhere(self.identity, self.predictor.name))
        skip = ranks.shared(skip)
        if self.choice is None and (ranks.count > 1 or skip):
            self._choose_decoder()
        placed, done = islice(inputs, skip, None), skip
        with ProgressLine("predict", short=True) as line:

            def progress(answered: int, _: int) -> None:
                together = min(done + answered * ranks.count, inputs.count)
                line.update({}, done=together, total=inputs.count)

            watch = progress if inputs.count > 1 else None
            groups = iter(lambda: [*islice(placed, _ROWS_AT_ONCE)], [])
            for some in ranks.in_turn(groups, lambda group: self._answered(group, watch)):
                yield some
                done += len(some)
        cut = sum(ranks.gathered(self._cut))
        if cut:
            limit = self.predictor.within_positions(self.settings).max_new_tokens
            answers = f"{cut:,} of {inputs.count - skip:,} answers"
            say(f"{answers} were cut: evaluation.max_new_tokens={limit}")

    def lines(self) -> Iterator[str]:
        """Yields the answers as stdout gets them."""
        yield from lines_of(self.inputs, chain.from_iterable(self.answers()), self.gained)

    def _answered(self, placed: Sequence[Placed], watch: Progress | None) -> list[Answer]:
        asked = [one for one in placed if self._has_source(one)]
        answers = iter(self._decoded(asked, watch) if asked else ())
        return [next(answers) if self._has_source(one) else self._empty for one in placed]

    def _has_source(self, placed: Placed) -> bool:
        return not (self.blanks and self.predictor.is_blank(placed[0]))

    @property
    def _empty(self) -> Answer:
        if self.choice is not None:
            return {PREDICTION: "", **dict.fromkeys(FIELDS)}
        return {PREDICTION: "", N_BEST: []} if self.settings.n_best else ""

    def _decoded(self, placed: Sequence[Placed], watch: Progress | None) -> list[Answer]:
        sources = [rendered(self.predictor, one) for one in placed]
        if self.choice is None:
            answers = decode(self.predictor, sources, self.settings, watch)
            self._cut += sum(not answer.stopped for answer in answers)
            return [_answer(answer) for answer in answers]
        lists = [self.choice.labels] * len(sources)
        scored = score(self.predictor, sources, lists, self.settings, watch)
        return [rank(scores, self.choice.weighing).to_dict() for scores in scored]

    def _choose_decoder(self) -> None:
        """Lets every process decode as one that begins with the first input."""
        placed = filter(self._has_source, islice(self.inputs, _ROWS_AT_ONCE))
        sources = [rendered(self.predictor, one) for one in placed]
        choose_decoder(self.predictor, sources, self.settings)


def _answer(prediction: Prediction) -> Answer:
    if not prediction.n_best:
        return prediction.text
    return {PREDICTION: prediction.text, N_BEST: list(prediction.n_best)}


def rankings(
    predictor: Predictor,
    placed: Sequence[Placed],
    candidates: Sequence[Sequence[str]],
    settings: DecodingSettings,
    weighing: Weighing,
) -> list[Ranking]:
    """Ranks the candidates of each input, with a progress line for several."""
    sources = [rendered(predictor, one) for one in placed]
    with ProgressLine("score", short=True) as line:

        def progress(done: int, total: int) -> None:
            line.update({}, done=done, total=total)

        shown = progress if len(placed) > 1 else None
        scored = score(predictor, sources, candidates, settings, shown)
    return [rank(scores, weighing) for scores in scored]


def answer_into(output: Path, work: Work, *, resume: bool) -> None:
    """Answers inputs into a file, which appears when it is complete.

    Until then the answers are in ``OUTPUT.part``, which a later call continues.

    Args:
        resume: continue what an earlier call left; see :class:`Unfinished`.

    Raises:
        UsageError: an earlier call left answers and ``resume`` is false, or something changed.
    """
    inputs, total = work.inputs, work.inputs.count
    if not appears_whole(output):
        if resume:
            raise UsageError(f"{output} is not a file that could be continued")
        write_answers(output, inputs, chain.from_iterable(work.answers()), work.gained)
        return
    kept = Unfinished(output, work.identity, resume=resume, at_once=_ROWS_AT_ONCE, total=total)
    only = list[Answer]()
    if kept.count:
        say(f"continuing: {kept.count:,} of {total:,} inputs are answered")
    with kept:
        for some in work.answers(kept.count):
            if len(some) == total:  # all at once: nothing to keep
                only = some
            else:
                kept.add(some)
    write_answers(output, inputs, only or kept, work.gained)
    kept.remove()
