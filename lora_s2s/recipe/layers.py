"""One recipe file, or the ``--set`` words, as a flat layer of raw values, each with the place it
came from.

YAML's own guesses about types (``no`` is false, ``1e-4`` is text, ``012`` is ten) never happen: a
value stays the text that was written until the field it belongs to says what it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml

from lora_s2s import limits
from lora_s2s.recipe.constraint import KINDS
from lora_s2s.recipe.meanings import key_hint, section_hint
from lora_s2s.recipe.schema import SECTIONS

# "C:\\new.csv" in double quotes is C:, a line break and ew.csv: what looks like such a path.
_PATHS = frozenset({"model.name", "data.train", "data.validation", "data.test", "output.dir"})
# A key below them is part of the value: `regex: …` may be written on a line of its own.
_WITH_KIND = frozenset({"evaluation.constraint"})
_SPOILT_PATH = re.compile(r"[A-Za-z]:.*|.*\.[a-z]{3,7}(\.[a-z]{2,3})?", flags=re.DOTALL)
_ESCAPED = (
    "a backslash in double quotes begins an escape; write a Windows path in single quotes, or with "
    "/"
)
# ``section.key=value`` words as after --set, or a mapping of keys (or sections) to Python values.
Overrides = Sequence[str] | Mapping[str, object]
_WRITTEN_BY = re.compile(r"^# lora-s2s (\d\S{0,30}) ", re.MULTILINE)
_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Scalar:
    """A value as written. ``quoted`` values are never null."""

    text: str
    quoted: bool = False

    @property
    def is_null(self) -> bool:
        """Whether this is YAML's null."""
        return not self.quoted and self.text in _NULLS


@dataclass(frozen=True)
class Entry:
    """One key's raw value and the ``file:line`` it stands on."""

    value: Scalar | list[Scalar]
    where: str


@dataclass
class Layer:
    """Raw values by ``section.key``, the places of sections, and what was wrong; ``broken`` when
    nothing was read. ``version`` is that of the package that wrote the file, if it says so.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    extends: tuple[str, str] | None = None  # the name, and where it stands
    broken: bool = False
    version: str = ""


def read_layer(path: Path) -> Layer:
    """Reads one YAML file; what is wrong with it goes into ``problems``."""
    layer = Layer(broken=True)
    try:
        with path.open("rb") as stream:
            content = stream.read(limits.LARGEST_RECIPE + 1)
        if len(content) > limits.LARGEST_RECIPE:
            layer.problems.append(f"{path}: larger than 1 MB")
            return layer
        text = content.decode("utf-8-sig")
        layer.version = next(iter(_WRITTEN_BY.findall(text)), "")
        root = _compose(text)
    except OSError as error:
        layer.problems.append(f"{path}: cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        layer.problems.append(f"{path}: not UTF-8 text (byte {error.start})")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = f"not YAML: {error.problem or error.context}"
        if "escape" in str(error.problem) and (written := _quoted(content, line)):
            problem = f"{_ESCAPED}: {written}"
        layer.problems.append(f"{path}:{line}: {problem}")
    except yaml.YAMLError as error:
        layer.problems.append(f"{path}: not YAML: {str(error).splitlines()[0]}")
    else:
        layer.broken = False
        _read_root(root, path, layer)
    return layer


def _quoted(content: bytes, line: int) -> str:
    """Returns what stands between double quotes in a line, in single quotes; empty where nothing
    does.
    """
    match = re.search(r'"([^"]+)"', content.decode("utf-8", "replace").splitlines()[line - 1])
    return f"'{match[1]}'" if match else ""


def _compose(text: str) -> yaml.Node | None:
    """Parses to nodes. The event pass bounds size and depth before anything recurses."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        anchored = getattr(event, "anchor", None) is not None  # set on aliases too
        if anchored or getattr(event, "tag", None) is not None:
            raise _refused("anchors, aliases and tags are not used in recipes", event)
        if depth > limits.DEEPEST_RECIPE or count > limits.MOST_RECIPE_EVENTS:
            raise _refused("nested too deep, or too long, for a recipe", event)
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    return node


def _refused(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=cast("yaml.Mark", event.start_mark))


def _read_root(root: yaml.Node | None, path: Path, layer: Layer) -> None:
    if not isinstance(root, yaml.MappingNode):
        expected = f":1: expected sections ({', '.join(SECTIONS)})"
        layer.problems.append(f"{path}{': empty' if root is None else expected}")
        return
    for name, value, where in _items(root, path, layer):
        if name in SECTIONS:
            layer.sections[name] = where
            _read_section(name, value, where, path, layer)
        elif name != "extends":
            section = isinstance(value, yaml.MappingNode)
            layer.problems.append(_unknown(name, where, _raw(value), is_section=section))
        elif isinstance(value, yaml.ScalarNode):
            layer.extends = (value.value, where)
        else:
            layer.problems.append(f"{where}: extends: expected one recipe name or file")


def _read_section(name: str, node: yaml.Node, where: str, path: Path, layer: Layer) -> None:
    if isinstance(node, yaml.ScalarNode) and Scalar(node.value, node.style is not None).is_null:
        return
    if not isinstance(node, yaml.MappingNode):
        layer.problems.append(f"{where}: {name}: expected keys below it, got {_kind(node)}")
        return
    for key, value, place in _items(node, path, layer, prefix=f"{name}."):
        raw = _with_kind(value) if f"{name}.{key}" in _WITH_KIND else _raw(value)
        if f"{name}.{key}" in _PATHS and _is_spoilt_path(value):
            layer.problems.append(f"{place}: {name}.{key}: {_ESCAPED}")
        if raw is None:
            layer.problems.append(
                f"{place}: {name}.{key}: expected a value or a list, got {_kind(value)}"
            )
        else:
            _add(layer, name, key, Entry(raw, place))


def _is_spoilt_path(node: yaml.Node) -> bool:
    """Whether a value, or one of a list, is a Windows path of which YAML read parts as escapes."""
    if isinstance(node, yaml.SequenceNode):
        return any(_is_spoilt_path(item) for item in node.value)
    if not isinstance(node, yaml.ScalarNode) or node.style != '"' or node.value.isprintable():
        return False
    return _SPOILT_PATH.fullmatch(node.value) is not None and not os.path.lexists(
        node.value.replace("\0", "")
    )


def _items(
    node: yaml.MappingNode, path: Path, layer: Layer, prefix: str = ""
) -> Iterator[tuple[str, yaml.Node, str]]:
    """Yields key, value and ``file:line``; keys given twice are a problem, as YAML would drop the
    first in silence.
    """
    lines: dict[str, int] = {}
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else _kind(key_node)
        if key in lines:
            layer.problems.append(
                f"{path}:{line}: {prefix}{key}: given twice (first on line {lines[key]})"
            )
            continue
        lines[key] = line
        yield key, value, f"{path}:{line}"


def _add(layer: Layer, section: str, key: str, entry: Entry) -> None:
    if key in SECTIONS[section].model_fields:
        layer.entries[f"{section}.{key}"] = entry
    else:
        hint = key_hint(key, _text(entry.value), section)
        problem = f"unknown key '{section}.{key}'{hint}"
        layer.problems.append(f"{entry.where}: {problem}")


def _text(value: Scalar | list[Scalar] | None) -> str:
    return value.text if isinstance(value, Scalar) else "[]"


def _unknown(
    name: str, where: str, value: Scalar | list[Scalar] | None = None, *, is_section: bool
) -> str:
    """The problem with an unknown name in the place of a section."""
    hint = key_hint(name, _text(value))
    if is_section or not hint:
        return f"{where}: unknown section '{name}'{section_hint(name)}"
    return f"{where}: expected a section, got the key '{name}'{hint}"


def _raw(node: yaml.Node | None) -> Scalar | list[Scalar] | None:
    if isinstance(node, yaml.ScalarNode):
        return Scalar(node.value, quoted=node.style is not None)
    if isinstance(node, yaml.SequenceNode) and all(
        isinstance(item, yaml.ScalarNode) for item in node.value
    ):
        return [Scalar(item.value, quoted=item.style is not None) for item in node.value]
    return None


def _with_kind(node: yaml.Node) -> Scalar | list[Scalar] | None:
    """Returns ``kind: text`` for a mapping of one kind to one text."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    if len(pairs) == 1 and all(isinstance(part, yaml.ScalarNode) for part in pairs[0]):
        kind, text = pairs[0]
        return Scalar(f"{kind.value}: {text.value}", quoted=True)
    return _raw(node)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"'{node.value}'"
    return "a list" if isinstance(node, yaml.SequenceNode) else "keys and values"


def override_layer(overrides: Overrides, where: str = "overrides") -> Layer:
    """Turns overrides of either form into a layer."""
    if isinstance(overrides, Mapping):
        return mapping_layer(overrides, where)
    return set_layer(overrides)


def overridden_keys(overrides: Overrides) -> set[str]:
    """The keys that overrides name, known or not."""
    return {word.partition("=")[0].strip() for word in override_words(overrides)}


def override_words(overrides: Overrides) -> list[str]:
    """Overrides of either form as ``section.key=value`` words, to show."""
    if isinstance(overrides, Mapping):
        return [f"{key}={value}" for key, value in flat_keys(overrides)]
    return [word.strip() for word in overrides]


def mapping_layer(values: Mapping[str, object], where: str) -> Layer:
    """Turns a mapping into a layer: ``{"training.seed": 1}`` or ``{"training": {"seed": 1}}``.

    A text is taken as it is, never as null or as a list.
    """
    layer = Layer()
    for name, value in flat_keys(values):
        section, dot, key = name.partition(".")
        raw = _kind_and_text(value) if name in _WITH_KIND else _raw_value(value)
        if section not in SECTIONS:
            layer.problems.append(_unknown(section, where, raw, is_section=bool(dot)))
        elif not dot:
            layer.problems.append(f"{where}: {section}: expected keys below it, got {value!r:.40}")
        elif raw is None:
            kind = type(value).__name__
            layer.problems.append(f"{where}: {name}: expected a value or a list, got {kind}")
        else:
            _add(layer, section, key, Entry(raw, where))
    return layer


def flat_keys(values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yields ``section.key`` and value, whether sections are mappings of their own or not."""
    for name, value in values.items():
        if isinstance(value, Mapping) and "." not in str(name):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield str(name), value


def _kind_and_text(value: object) -> Scalar | list[Scalar] | None:
    """Returns ``kind: text`` for a mapping of one kind to its content; another is a JSON Schema."""
    if not isinstance(value, Mapping):
        return _raw_value(value)
    kind, content = next(iter(value.items()), ("", None))
    if len(value) > 1 or kind not in KINDS:
        kind, content = "json", value
    try:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    except (TypeError, RecursionError):
        return None
    return Scalar(f"{kind}: {text}", quoted=True)


def _raw_value(value: object) -> Scalar | list[Scalar] | None:
    if isinstance(value, list | tuple):
        items = [_scalar(item) for item in value]
        return [item for item in items if item is not None] if None not in items else None
    return _scalar(value)


def _scalar(value: object) -> Scalar | None:
    if value is None:
        return Scalar("null")
    if isinstance(value, str | os.PathLike):
        return Scalar(str(os.fspath(value)), quoted=True)
    return Scalar(str(value).lower()) if isinstance(value, bool | int | float) else None


def set_layer(overrides: Sequence[str]) -> Layer:
    """Turns the words after ``--set`` into a layer; a later word wins over an earlier one."""
    layer = Layer()
    for word in overrides:
        match = re.fullmatch(r"\s*([\w-]+)\.([\w-]+)\s*=(.*)", word, flags=re.DOTALL)
        if not match:
            name, _, text = word.partition("=")
            hint = key_hint(name.strip(), text.strip())
            layer.problems.append(f"--set {word}: expected section.key=value{hint}")
            continue
        section, key, text = match[1], match[2], match[3].strip()
        if section not in SECTIONS:
            hint = section_hint(section, key)
            layer.problems.append(f"--set: unknown section '{section}'{hint}")
            continue
        _add(layer, section, key, Entry(_set_value(text), "--set"))
    return layer


def _set_value(text: str) -> Scalar | list[Scalar]:
    """``[a, b]`` is a list; anything else is the text itself."""
    if text.startswith("[") and text.endswith("]"):
        try:
            raw = _raw(_compose(text))
        except yaml.YAMLError:
            raw = None
        if raw is not None:
            return raw
    return Scalar(text)
