"""TMX, the exchange format of translation memories: one row a unit, one field a language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from lora_s2s.errors import DataError
from lora_s2s.reading import streams
from lora_s2s.reading.example import Rejected, Row
from lora_s2s.reading.streams import blocks

# Inside a segment these hold another format's codes, which are no text.
_CODES = {"bpt", "ept", "it", "ph", "ut"}


class _Units:
    """What expat calls while it parses: collects the units that are whole."""

    def __init__(self, path: Path, parser: expat.XMLParserType) -> None:
        self.path, self.parser = path, parser
        self.found: list[Row | Rejected] = []
        self._line, self._language, self._reason = 0, "", ""
        self._fields: dict[str, str] = {}
        self._text: list[str] | None = None
        self._length, self._codes, self._root = 0, 0, ""
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = self._entity
        parser.SkippedEntityHandler = self._entity

    def _refusal(self, message: str, hint: str) -> DataError:
        return DataError(message, hint=hint, where=f"{self.path}:{self.parser.CurrentLineNumber}")

    def _entity(self, name: str, *_: Any) -> None:
        # Entities can grow a small file without end, and those defined elsewhere would be lost text.
        raise self._refusal(f"the XML has an entity of its own: '{name}'", "write the text out in its place")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._root and name != "tmx":
            raise self._refusal(f"XML of the type '{name}', expected 'tmx'", "convert it to TMX, CSV or JSON lines")
        self._root = "tmx"
        if name == "tu":
            self._line, self._reason, self._fields, self._length = self.parser.CurrentLineNumber, "", {}, 0
        elif name == "tuv":
            self._language = attributes.get("xml:lang") or attributes.get("lang") or ""
        elif name == "seg":
            self._text = []
        self._codes += name in _CODES

    def _characters(self, text: str) -> None:
        if self._text is None or self._codes:
            return
        self._length += len(text)
        if self._length > streams.LONGEST_RECORD:
            self._text, self._reason = None, streams.TOO_LONG
        else:
            self._text.append(text)

    def _end(self, name: str) -> None:
        self._codes -= name in _CODES
        if name == "seg":
            if self._language in self._fields:
                self._reason = self._reason or f"language named twice: '{self._language}'"
            self._fields[self._language], self._text = "".join(self._text or []), None
        elif name == "tu":
            row = Row(self._line, self._fields)
            bad = Rejected(str(self.path), self._line, self._reason, streams.excerpt(" | ".join(self._fields.values())))
            self.found.append(bad if self._reason else row)


def read_tmx(path: Path) -> Iterator[Row | Rejected]:
    """Yields a row for every translation unit: the text of each ``xml:lang``.

    Raises:
        DataError: it is no TMX, not well-formed, or has entities of its own.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    units = _Units(path, parser)
    try:
        for block in blocks(path):
            parser.Parse(block, False)
            yield from units.found
            units.found.clear()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        where = f"{path}:{error.lineno}:{error.offset + 1}"
        raise DataError(f"not well-formed XML: {expat.ErrorString(error.code)}", where=where) from error
