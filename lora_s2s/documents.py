"""Typed JSON documents: read with one message for the first key that is missing or wrong.

>>> checked(dict[str, Count], {"rows": -1}, Path("manifest.json"))
Traceback (most recent call last):
lora_s2s.errors.DataError: `manifest.json` is damaged: rows should be at least 0, not -1
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import Self

from lora_s2s.errors import DataError
from lora_s2s.files import read_object

_Kind = TypeVar("_Kind")

Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Amount = Annotated[float, Field(strict=True, ge=0, lt=2**63)]

Number = Annotated[float, Field(strict=True, gt=-(2**63), lt=2**63)]


class Record(BaseModel):
    """An object of a JSON document: frozen, and strict, so that ``"1"`` and ``true`` are no
    numbers.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )


class Document(Record):
    """A whole file: ``file`` is its name in its folder, ``version`` what it must say of itself.

    ``optional``: a folder without the file is read as an empty document. ``hint`` is the next
    command where it is damaged.
    """

    file: ClassVar[str]
    version: ClassVar[tuple[tuple[str, object], ...]] = ()
    about: ClassVar[str] = ""
    optional: ClassVar[bool] = False
    hint: ClassVar[str | None] = None
    _content: dict[str, object] = PrivateAttr(default_factory=dict)

    @property
    def content(self) -> dict[str, object]:
        """The document as it stands in the file, unknown keys too."""
        return self._content

    @classmethod
    def path(cls, folder: Path) -> Path:
        """Returns where a folder has the file, for messages."""
        return folder / cls.file

    @classmethod
    def read(cls, folder: Path, *, hint: str | None = None) -> Self:
        """Reads the folder's file.

        Raises:
            DataError: it is missing, damaged or of another version; see
                :func:`lora_s2s.files.read_object`.
        """
        path = cls.path(folder)
        content = {} if cls.optional and not path.exists() else read_object(path)
        if any(content.get(key) != value for key, value in cls.version):
            problem = f"`{cls.file}` does not describe {cls.about} of this version"
            raise DataError(problem, hint=hint or cls.hint, where=str(path))
        record = checked(cls, cls._part(content), path, hint=hint or cls.hint)
        record._content = content
        return record

    @classmethod
    def _part(cls, content: dict[str, object]) -> dict[str, object]:
        """Returns what is validated of the file's content."""
        return content


def checked(kind: type[_Kind], content: object, path: Path, *, hint: str | None = None) -> _Kind:
    """Returns the record that a document's content is.

    Args:
        path: the document, for the message.

    Raises:
        DataError: a key is missing or wrong.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        problem = _problem(error.errors(include_url=False)[0])
    raise DataError(f"`{path.name}` is damaged: {problem}", hint=hint, where=str(path))


def complete(kind: type[_Kind], values: Mapping[str, object], path: Path) -> _Kind:
    """Returns a dataclass of counters; none of them begins again at its default.

    Raises:
        DataError: a field is missing or wrong.
    """
    if missing := sorted(get_type_hints(kind).keys() - values.keys()):
        raise DataError(f"`{path.name}` is damaged: {missing[0]} is missing", where=str(path))
    return checked(kind, dict(values), path)


_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_pattern_mismatch": "a language code",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "dataclass_type": "an object",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def _problem(error: ErrorDetails) -> str:
    key = ".".join(f"{part:.40}" if isinstance(part, str) else str(part) for part in error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key} {context['error']}"
    if kind in _BOUNDS:
        word, bound = _BOUNDS[kind]
        expected = f"should be {word} {context[bound]:,}"
    elif kind == "literal_error":
        expected = f"should be {context['expected']}"
    else:
        expected = f"should be {_KINDS[kind]}" if kind in _KINDS else error["msg"]
    return f"{key} {expected}, not {error['input']!r:.40}"
