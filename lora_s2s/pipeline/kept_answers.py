"""Decodes an evaluation's sources some at a time, and keeps the answers until it is written, so
that a killed one continues.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path

from lora_s2s.console import ProgressLine, say
from lora_s2s.errors import UsageError
from lora_s2s.evaluation.mbr import decode
from lora_s2s.inference.decode import Prediction, choose_decoder
from lora_s2s.inference.engine import MOST_HYPOTHESES, DecodingSettings
from lora_s2s.inference.predictor import Predictor
from lora_s2s.pipeline.identity import answers_identity, same_everywhere
from lora_s2s.pipeline.ranks import ALONE, Ranks
from lora_s2s.pipeline.unfinished import Unfinished

# A batch has no more rows than that, so that none is divided; what a kill may cost.
AT_ONCE = MOST_HYPOTHESES


@dataclass
class KeptAnswers:
    """Answers beside an evaluation's folder, ``FOLDER.WHAT.part`` for each system.

    Attributes:
        folder: where the evaluation is written; nothing is kept if None.
        resume: continue with what an earlier run kept.
        made_with: what answers depend on besides the model's folder, its sources and settings.
        ranks: the processes that answer together, of which the first keeps and returns.
    """

    folder: Path | None
    resume: bool
    made_with: Sequence[object] = ()
    ranks: Ranks = ALONE
    _parts: list[Unfinished] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.resume and self.folder is None:
            raise UsageError(
                "--resume continues an evaluation that is written into a folder",
                hint="add --out DIR",
            )

    def decode(
        self,
        what: str,
        predictor: Predictor,
        sources: Sequence[str],
        settings: DecodingSettings,
        model: str,
    ) -> list[Prediction]:
        """Answers sources in order, but for those that an earlier run answered; in processes after
        the first, the result is empty.

        Args:
            what: which system it is, for the progress line and the file's name.
            model: the model's name or folder, as the user gave it.

        Raises:
            UsageError: an earlier run left answers and ``resume`` is false, or something changed.
        """
        identity = answers_identity(model, list(sources), asdict(settings))
        if self.ranks.count > 1:
            self.ranks.check_same(same_everywhere(identity, model))
        identity["model"] = [identity["model"], *self.made_with]
        part = self._part(what, identity, len(sources))
        answers = [_read(str(line)) for line in part or ()]
        if answers:
            say(f"continuing: {len(answers):,} of {len(sources):,} sources are answered ({what})")
        # The longest first, as within a batch: one too large for the memory fails at once.
        order = sorted(range(len(sources)), key=lambda place: -len(sources[place]))
        longest_first = [sources[place] for place in order]
        with part or nullcontext():
            for lines in self._decoded(what, predictor, longest_first, settings, len(answers)):
                if part is not None:
                    part.add(lines)
                answers += map(_read, lines)
        if not self.ranks.first:
            return []
        in_order = dict(zip(order, answers, strict=True))
        return [in_order[place] for place in range(len(sources))]

    def _decoded(
        self,
        what: str,
        predictor: Predictor,
        sources: Sequence[str],
        settings: DecodingSettings,
        skip: int,
    ) -> Iterator[list[str]]:
        """Answers from the source ``skip`` on as lines of the file, some at a time."""
        skip = self.ranks.shared(skip)
        if self.ranks.count > 1 or skip:  # where one process from the first source on would choose
            choose_decoder(predictor, sources[:AT_ONCE], settings)
        done = skip
        with ProgressLine("eval", short=True) as line:

            def progress(answered: int, _: int) -> None:
                together = min(done + answered * self.ranks.count, len(sources))
                line.update({"": what}, done=together, total=len(sources))

            def answered(some: Sequence[str]) -> list[str]:
                decoded = decode(predictor, some, settings, progress)
                return [json.dumps(astuple(answer)) for answer in decoded]

            starts = range(skip, len(sources), AT_ONCE)
            groups = (sources[start : start + AT_ONCE] for start in starts)
            for lines in self.ranks.in_turn(groups, answered):
                yield lines
                done += len(lines)

    def remove(self) -> None:
        """Removes the files, once the evaluation is written."""
        for part in self._parts:
            part.remove()

    def _part(self, what: str, identity: Mapping[str, object], total: int) -> Unfinished | None:
        if self.folder is None or not self.ranks.first:
            return None
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        output = self.folder.with_name(f"{self.folder.name}.{what}")
        part = Unfinished(output, identity, resume=self.resume, at_once=AT_ONCE, total=total)
        self._parts.append(part)
        return part


def _read(line: str) -> Prediction:
    text, tokens, stopped, n_best = json.loads(line)
    return Prediction(text=text, tokens=tokens, stopped=stopped, n_best=tuple(n_best))
