"""The engine that runs a folder of ONNX files with onnxruntime, on a CPU; it needs no torch.

The decoder is one graph for every step: it takes the keys and values of the tokens before as
``past_key_values.*`` and returns all of them as ``present.*``. At the first step they are empty,
and it computes those of the source too.

B rows, K beams, S source length, T target length, V vocabulary.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lora_s2s import limits
from lora_s2s.errors import DataError, ResourceError, UsageError, extra
from lora_s2s.files import open_regular
from lora_s2s.inference.beam_search import Search
from lora_s2s.inference.engine import (
    DecodingSettings,
    ExportedEngine,
    TokenIds,
    Watch,
    refuse_settings,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lora_s2s.inference.constraint import Constraint
    from lora_s2s.records import ExportManifest

FOLDER = "onnx"  # in an exported folder, as on the hub
ENCODER, DECODER = "encoder_model", "decoder_model_merged"
# How transformers.js and optimum name files whose weights have 8 bits.
SUFFIXES = {"float32": "", "int8": "_quantized"}
_PAST, _PRESENT = "past_key_values", "present"
_SCORED = 16

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

# Decoding settings that only torch has.
LACKS = ("repetition_penalty", "no_repeat_ngram_size", "temperature")


def library() -> Any:
    """Returns the module ``onnxruntime``.

    Raises:
        SetupError: it is not installed.
    """
    with extra("onnx"):
        import onnxruntime
    return onnxruntime


def file_names(precision: str) -> tuple[str, str]:
    """Returns the names of the encoder's and the decoder's file."""
    suffix = SUFFIXES.get(precision, "")
    return f"{ENCODER}{suffix}.onnx", f"{DECODER}{suffix}.onnx"


def _beside(path: Path) -> Path:
    """Where the weights of a graph of more than 2 GiB are."""
    return path.with_name(f"{path.name}_data")


def _check_places(path: Path) -> None:
    """Refuses a graph that takes weights from any file but the one beside it: older versions of
    onnxruntime follow every path.
    """
    name = _beside(path).name.encode()
    entry = b"\x0a\x08location\x12" + bytes([len(name)]) + name
    with open_regular(path, most=limits.largest(path.name, path.suffix)) as stream:
        if not os.fstat(stream.fileno()).st_size:
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # However a message is written, its keys stand in it as they are.
            named = len(re.findall(b"location", content))
            allowed = len(re.findall(re.escape(entry), content))
    if named != allowed:
        problem = "the graph takes weights from another file than the one beside it"
        raise DataError(problem, hint="export it again", where=str(path))


def _session(path: Path, threads: int) -> Any:
    onnxruntime = library()
    _check_places(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _failures() as error:
        problem = f"onnxruntime cannot load the model: {error}"
        raise DataError(problem, hint="export it again", where=str(path)) from error


def _failures() -> tuple[type[Exception], ...]:
    """Returns the exceptions of onnxruntime, which have no base of their own."""
    state = library().capi.onnxruntime_pybind11_state
    kinds = [kind for kind in vars(state).values() if isinstance(kind, type)]
    return tuple(kind for kind in kinds if issubclass(kind, Exception))


@dataclass(frozen=True)
class OnnxEngine:
    """An exported model.

    Attributes:
        files: the encoder's and the decoder's.
        tokens: the text of each id.
        start: the decoder's first input; ``end`` ends an answer, ``pad`` fills shorter sources.
        prefix: ids that every answer begins with: the target language, where a family needs one.
        never: sequences of ids that no answer holds.
        threads: of each product; 0 lets onnxruntime choose.
        tokenizer: where answers may be constrained.
    """

    files: tuple[Path, Path]
    tokens: Sequence[str] = field(repr=False)
    start: int
    end: int
    pad: int
    prefix: Sequence[int] = ()
    never: TokenIds = ()
    threads: int = 0
    tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)
    runtime: str = "onnx"
    _sessions: tuple[Any, Any] = field(default=(None, None), repr=False, compare=False)

    def __post_init__(self) -> None:
        encoder, decoder = (_session(path, self.threads) for path in self.files)
        object.__setattr__(self, "_sessions", (encoder, decoder))

    def answers(self, sources: TokenIds, settings: DecodingSettings) -> list[list[int]]:
        """See :class:`lora_s2s.inference.engine.Engine`; ``early_stopping`` is off by default."""
        refuse_settings(settings, LACKS, runtime="onnxruntime")
        if settings.num_beams == 1:
            return self._greedy(sources, settings)
        return self._beam_search(sources, settings)

    def watched_answers(
        self, sources: TokenIds, settings: DecodingSettings, watch: Watch
    ) -> list[list[int]]:
        """See :class:`lora_s2s.inference.engine.WatchedEngine`."""
        refuse_settings(settings, LACKS, runtime="onnxruntime")
        return self._greedy(sources, settings, watch)

    def _greedy(
        self,
        sources: TokenIds,
        settings: DecodingSettings,
        watch: Watch | None = None,
    ) -> list[list[int]]:
        most, constraint = settings.max_new_tokens, self._constraint(settings)
        answers = [list(self.prefix)[:most] for _ in sources]
        if len(self.prefix) >= most:
            return answers
        steps = _Steps(self._sessions, *self._padded(sources))
        open_B = np.arange(steps.rows)
        ids_BT = np.tile([self.start, *self.prefix], (steps.rows, 1))
        while True:
            scores_BV = steps.next_logits(ids_BT)
            self._forbid(scores_BV, [answers[row] for row in open_B], constraint)
            chosen_B = scores_BV.argmax(axis=1)
            goes_on = []
            for place, (row, token) in enumerate(zip(open_B, chosen_B, strict=True)):
                answers[row].append(int(token))
                stopped = watch is not None and watch(int(row), answers[row])
                if not stopped and token != self.end and len(answers[row]) < most:
                    goes_on.append(place)
            if not goes_on:
                return answers
            if len(goes_on) < len(open_B):
                steps.take(np.array(goes_on))
            open_B, ids_BT = open_B[goes_on], chosen_B[goes_on, None]

    def _beam_search(self, sources: TokenIds, settings: DecodingSettings) -> list[list[int]]:
        count, most = settings.returned, settings.max_new_tokens
        if len(self.prefix) >= most:
            return [list(self.prefix)[:most] for _ in range(len(sources) * count)]
        constraint = self._constraint(settings)
        steps = _Steps(self._sessions, *self._padded(sources))
        search = Search(steps.rows, settings, self.prefix, self.end)
        steps.take(np.repeat(np.arange(steps.rows), settings.num_beams))
        ids_BT = np.tile([self.start, *self.prefix], (steps.rows, 1))
        while True:
            scores_BV = log_softmax(steps.next_logits(ids_BT))
            self._forbid(scores_BV, search.running(), constraint)
            parents_B = search.extend(search.candidates(scores_BV))
            if search.over_B.all():
                return [ids for row in range(len(sources)) for ids in search.best(row, count)]
            steps.reorder(parents_B)
            ids_BT = search.newest()

    def log_probs(self, sources: TokenIds, answers: TokenIds) -> list[list[float]]:
        """Returns the log-probability of each token of given answers, of the ``</s>`` after it too,
        in nats.
        """
        rows = []
        single = [ids[0] for ids in self.never if len(ids) == 1]
        for first in range(0, len(sources), _SCORED):
            steps = _Steps(self._sessions, *self._padded(sources[first : first + _SCORED]))
            labels = [[*answer, self.end] for answer in answers[first : first + _SCORED]]
            inputs = [[self.start, *answer[:-1]] for answer in labels]
            logits_BTV = steps.logits(_rectangle(inputs, self.pad)[0])
            logits_BTV[..., single] = -np.inf
            for logits_TV, wanted in zip(logits_BTV, labels, strict=True):
                scores_TV = log_softmax(logits_TV[: len(wanted)])
                rows.append(scores_TV[np.arange(len(wanted)), wanted].tolist())
        return rows

    def vocabulary(self) -> list[str]:
        """Returns the token of each id."""
        return list(self.tokens)

    def _padded(self, sources: TokenIds) -> tuple[Ids, Ids]:
        return _rectangle(sources, self.pad)

    def _constraint(self, settings: DecodingSettings) -> Constraint | None:
        if settings.constraint is None:
            return None
        if self.tokenizer is None:
            problem = "an engine without a tokenizer cannot follow evaluation.constraint"
            raise UsageError(problem, hint="--set evaluation.constraint=null")
        from lora_s2s.inference.constraint import constraint_of  # it needs transformers

        return constraint_of(settings, self.tokenizer)

    def _forbid(self, scores_BV: Floats, rows: TokenIds, constraint: Constraint | None) -> None:
        """Gives tokens that would complete a forbidden sequence, or leave what answers may be, no
        chance.
        """
        for *before, last in self.never:
            for row, ids in enumerate(rows):
                if list(ids[len(ids) - len(before) :]) == before:
                    scores_BV[row, last] = -np.inf
        if constraint is not None:
            allowed_BV = np.zeros(scores_BV.shape, np.bool_)
            constraint.allow(rows, allowed_BV)
            scores_BV[~allowed_BV] = -np.inf


class _Steps:
    """A batch of sources, encoded, and the keys and values of what was decoded so far."""

    def __init__(self, sessions: tuple[Any, Any], ids_BS: Ids, mask_BS: Ids) -> None:
        encoder, self.decoder = sessions
        self.rows = len(ids_BS)
        self.past: dict[str, Floats] = {}
        for given in self.decoder.get_inputs():
            if given.name.startswith(_PAST):
                _, heads, _, width = given.shape
                self.past[given.name] = np.zeros((self.rows, heads, 0, width), np.float32)
        feeds = {"input_ids": ids_BS, "attention_mask": mask_BS}
        (states_BSD,) = _run(encoder, feeds)
        self.source: dict[str, NDArray[Any]] = {
            "encoder_hidden_states": states_BSD,
            "encoder_attention_mask": mask_BS,
        }

    def logits(self, ids_BT: Ids) -> Floats:
        """Returns the logits (B, T, V) after each of the next ids."""
        feeds = {**self.source, **self.past, "input_ids": ids_BT}
        logits_BTV, *present = _run(self.decoder, feeds)
        names = [output.name for output in self.decoder.get_outputs()[1:]]
        self.past = {
            name.replace(_PRESENT, _PAST, 1): states
            for name, states in zip(names, present, strict=True)
        }
        result: Floats = logits_BTV
        return result

    def next_logits(self, ids_BT: Ids) -> Floats:
        """Returns the logits (B, V) after the last of the next ids."""
        return self.logits(ids_BT)[:, -1]

    def take(self, rows_B: NDArray[np.intp]) -> None:
        """Goes on with these rows alone, which may repeat."""
        self.source = {name: states[rows_B] for name, states in self.source.items()}
        self.past = {name: states[rows_B] for name, states in self.past.items()}
        self.rows = len(rows_B)

    def reorder(self, rows_B: NDArray[np.intp]) -> None:
        """Goes on with these rows' targets; the sources of equal place stay the same."""
        for name, states in self.past.items():
            if ".decoder." in name:
                self.past[name] = states[rows_B]


def _run(session: Any, feeds: Mapping[str, NDArray[Any]]) -> list[Any]:
    try:
        outputs: list[Any] = session.run(None, dict(feeds))
    except _failures() as error:
        if "allocat" not in str(error):
            raise DataError(f"onnxruntime cannot run the model: {error}") from error
        hint = "lower evaluation.batch_tokens"
        raise ResourceError(f"out of memory: {error}", hint=hint) from error
    return outputs


def _rectangle(rows: TokenIds, fill: int) -> tuple[Ids, Ids]:
    """Returns rows of ids filled up on the right, and a mask that is 1 at the real ids."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), fill, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = values
        mask[row, : len(values)] = 1
    return ids, mask


def log_softmax(logits: Floats) -> Floats:
    """Returns the logarithms of the probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def open_folder(
    folder: Path, tokenizer: PreTrainedTokenizerBase, manifest: ExportManifest
) -> ExportedEngine:
    """Opens what ``export --format onnx`` wrote, its files verified already.

    Raises:
        DataError: the manifest does not list the files, or onnxruntime refuses them.
        SetupError: onnxruntime is not installed.
    """
    names = file_names(manifest.export.precision)
    encoder, decoder = (folder / FOLDER / name for name in names)
    beside = [path for path in map(_beside, (encoder, decoder)) if path.exists()]
    for path in (encoder, decoder, *beside):
        manifest.require(folder, path.relative_to(folder).as_posix())
    return of_tokenizer((encoder, decoder), tokenizer, manifest.start, manifest.never)


def of_tokenizer(
    files: tuple[Path, Path],
    tokenizer: PreTrainedTokenizerBase,
    start: int | None,
    never: TokenIds,
    *,
    threads: int = 0,
) -> OnnxEngine:
    """Returns an engine with the ids of a tokenizer.

    Args:
        start: the decoder's first input; None takes the padding.
        never: sequences of ids that no answer holds.
    """
    from lora_s2s.tokens.special_tokens import answer_prefix, first_ids

    starts = (first_ids(tokenizer)["start"], start, tokenizer.pad_token_id)
    return OnnxEngine(
        files,
        tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))),
        start=next(one for one in starts if one is not None),
        end=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        prefix=answer_prefix(tokenizer),
        never=never,
        threads=threads,
        tokenizer=tokenizer,
    )
