"""Row formats other than pairs of columns: how to recognise each, and its questions and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from lora_s2s import limits
from lora_s2s.examples.columns import target_text, text_of, texts_of
from lora_s2s.examples.conversations import (
    DIALOGUE_TEMPLATE,
    LISTS,
    dialogue_questions,
    looks_like_dialogue,
)
from lora_s2s.examples.example import Example, NotForThis, Unusable, checked
from lora_s2s.examples.template import TURNS, PromptTemplate
from lora_s2s.readers.names import normalised
from lora_s2s.readers.rows import Fields, Rejected, reject

# Values for a template, and the targets; each target becomes an example.
Question: TypeAlias = tuple[dict[str, Any], list[object]]
Converter: TypeAlias = Callable[[Fields, str], Iterable[Example | Rejected]]

UNANSWERABLE = "unanswerable"
_INSTRUCTION, _CONTEXT, _RESPONSE = ("instruction",), ("input", "context"), ("output", "response")
_DEFINITION, _INPUT, _OUTPUT = ("definition",), ("input", "inputs"), ("output", "targets")
_SQUAD = ("paragraphs", "title", "context", "question", "answers", "answer", "is_impossible")
_TASK, _INSTANCES = (*_DEFINITION, *_INSTRUCTION), ("instances",)
_INSTRUCTIONS = (*_TASK, *_INPUT, *_OUTPUT, *_INSTANCES)
_ALPACA = (*_INSTRUCTION, *_CONTEXT, *_RESPONSE)


@dataclass(frozen=True)
class Shape:
    """One row format.

    Attributes:
        looks: whether a row has this format.
        questions: yields values for the template with the targets; raises Unusable.
        template: renders a source, unless the user names another template.
        columns: names that the template can use besides the row's columns.
        reads: the row's keys that examples are made of, in lower case.
    """

    looks: Callable[[Fields], bool]
    questions: Callable[[Fields], Iterator[Question]]
    template: str
    columns: tuple[str, ...]
    reads: tuple[str, ...]

    @property
    def is_dialogue(self) -> bool:
        """Whether the sources are turns."""
        return self.columns == (TURNS,)

    def examples(
        self, prompt: PromptTemplate, seed: int, fields: Fields, where: str
    ) -> Iterator[Example | Rejected]:
        """Yields an example per question and distinct target, or the reason why there is none.

        Raises:
            Unusable: the row has another format, or no question has a target.
        """
        group, lacking, repeated = None, True, 0
        for values, targets in self.questions(fields):
            if not targets:
                continue
            lacking = False
            turns = values.get(TURNS, ()) if self.is_dialogue else ()
            try:
                if self.is_dialogue and not turns:
                    raise NotForThis("a reply before the first user turn")
                inputs = texts_of(values, prompt)
                chosen = prompt.chosen(inputs, seed)
                source = checked(chosen.once(inputs), "source")
                texts = list(map(target_text, targets))
            except Unusable as error:
                fault = not isinstance(error, NotForThis)
                yield reject(where, str(error), _excerpt(*values.values(), *targets), fault=fault)
                continue
            repeated += len(source)
            if repeated > limits.LARGEST_CONVERSATION:
                raise Unusable(
                    f"more than {limits.in_words(limits.LARGEST_CONVERSATION)} of repeated turns"
                )
            # All sources of a conversation begin with its first one, which keeps them and copies of
            # the conversation in one split.
            group = group or (source if turns else None)
            for target in dict.fromkeys(texts):
                yield Example(source, target, where, group, turns, chosen.text if turns else None)
        if lacking:
            raise Unusable("no assistant turn" if self.is_dialogue else "no question")

    def unanswered(self, fields: Fields) -> dict[str, Any]:
        """Values for the template of a row without its answer; a dialogue's last question.

        Raises:
            Unusable: there is no such question, or more than one.
        """
        questions = [values for values, _ in self.questions(fields)]
        if not questions or (self.is_dialogue and not questions[-1][TURNS]):
            raise Unusable("no turn to answer" if self.is_dialogue else "no question")
        if len(questions) > 1 and not self.is_dialogue:
            raise Unusable(f"{len(questions)} questions in one row, expected one")
        return questions[-1]


def _excerpt(*values: object) -> str:
    return " | ".join(value for value in values if isinstance(value, str))


def _any_case(fields: Fields, names: Iterable[str]) -> object:
    """The first value under one of the names, in any case."""
    values = (
        fields[key]
        for name in names
        for key in fields
        if normalised(key) == name and fields[key] is not None
    )
    return next(values, None)


def _given(**values: object) -> dict[str, Any]:
    """The values that a row has."""
    return {name: value for name, value in values.items() if value is not None}


def _has(fields: Fields, *groups: tuple[str, ...]) -> bool:
    """Whether a row has a column of each group, in any case."""
    names = {normalised(key) for key in fields}
    return all(not names.isdisjoint(group) for group in groups)


def _is_alpaca(fields: Fields) -> bool:
    return _has(fields, _INSTRUCTION, _CONTEXT, _RESPONSE)


def _alpaca(fields: Fields) -> Iterator[Question]:
    values = _given(instruction=_any_case(fields, _INSTRUCTION))
    values["input"] = _any_case(fields, _CONTEXT) or ""
    yield {**fields, **values}, [_any_case(fields, _RESPONSE)]


def _objects(value: object, name: str) -> list[Fields]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise Unusable(f"no list of objects under '{name}'")
    return value


def _is_squad(fields: Fields) -> bool:
    flat = isinstance(fields.get("question"), str) and isinstance(fields.get("context"), str)
    return isinstance(fields.get("paragraphs"), list) or (
        flat and ("answers" in fields or "answer" in fields)
    )


def _squad(fields: Fields) -> Iterator[Question]:
    if "paragraphs" not in fields:
        yield dict(fields), _answers(fields)
        return
    for paragraph in _objects(fields["paragraphs"], "paragraphs"):
        for question in _objects(paragraph.get("qas"), "qas"):
            owners = {"title": fields, "context": paragraph, "question": question}
            values = {name: owner[name] for name, owner in owners.items() if name in owner}
            yield values, _answers(question)


def _answers(question: Fields) -> list[object]:
    answers = question["answers"] if "answers" in question else question.get("answer")
    texts = answers.get("text") if isinstance(answers, Mapping) else answers
    listed = texts if isinstance(texts, list) else [texts]
    if question.get("is_impossible") is True or not listed:
        return [UNANSWERABLE]
    return [item.get("text") if isinstance(item, Mapping) else item for item in listed]


def _is_instructions(fields: Fields) -> bool:
    nested = isinstance(_any_case(fields, _INSTANCES), list)
    return (nested and _has(fields, _TASK)) or _has(fields, _DEFINITION, _INPUT, _OUTPUT)


def _instructions(fields: Fields) -> Iterator[Question]:
    definition, nested = _any_case(fields, _TASK), _any_case(fields, _INSTANCES)
    if isinstance(definition, list):
        definition = " ".join(text_of(part, "definition") for part in definition)
    for instance in [fields] if nested is None else _objects(nested, "instances"):
        output = _any_case(instance, _OUTPUT)
        values = _given(definition=definition, input=_any_case(instance, _INPUT))
        yield values, output if isinstance(output, list) and output else [output or None]


def _dialogue(*roles: str) -> Shape:
    return Shape(
        partial(looks_like_dialogue, names=roles),
        dialogue_questions,
        DIALOGUE_TEMPLATE,
        (TURNS,),
        (*LISTS, "system"),
    )


_SQUAD_TEMPLATE = "question: {{ question }} context: {{ context }}"
_INSTRUCTIONS_TEMPLATE = (
    "{{ definition }}{% if input | trim %} Input: {{ input }}{% endif %} Output:"
)
_ALPACA_TEMPLATE = "{{ instruction }}{% if input | trim %} {{ input }}{% endif %}"
FORMATS: dict[str, Shape] = {
    "conversations": _dialogue("from", "speaker"),
    "messages": _dialogue("role"),
    "squad": Shape(_is_squad, _squad, _SQUAD_TEMPLATE, ("question", "context", "title"), _SQUAD),
    "instructions": Shape(
        _is_instructions,
        _instructions,
        _INSTRUCTIONS_TEMPLATE,
        ("definition", "input"),
        _INSTRUCTIONS,
    ),
    "alpaca": Shape(_is_alpaca, _alpaca, _ALPACA_TEMPLATE, ("instruction", "input"), _ALPACA),
}
DIALOGUES = tuple(name for name, shape in FORMATS.items() if shape.is_dialogue)


def shape_of(rows: Iterable[Fields]) -> str | None:
    """The first format that some row has; None if the rows are pairs of columns."""
    samples = list(rows)
    return next((name for name, shape in FORMATS.items() if any(map(shape.looks, samples))), None)
