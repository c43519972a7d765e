"""Training data and texts to answer."""

from __future__ import annotations

from case import Case
from rows_recipes import ESCAPE
from spoiling import Spoil, fifo, file, linked, packed, sparse, squeezed


def data(
    name: str, path: str, content: bytes | str | Spoil, said: str, code: int = 3, more: str = ""
) -> Case:
    """A file of training data; the message itself names it."""
    spoil = content if callable(content) else file(path, content)
    return Case(
        f"data: {name}",
        f"prepare --data {path} --model BASE --out out{more}",
        code,
        said,
        spoil,
        plain=True,
    )


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "lollollol">'
    + "".join(
        f'<!ENTITY {b} "&{a};&{a};&{a};&{a};&{a};&{a};&{a};&{a};&{a};&{a};">'
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><tmx version='1.4'><body><tu><tuv xml:lang='en'><seg>&i;</seg></tuv></tu></body></tmx>"
)
DATA = [
    data("missing", "x.csv", lambda folder: None, "no such file"),
    data("header alone", "x.csv", "question,answer\n", "empty"),
    data("binary", "x.csv", bytes(range(256)) * 20, "binary file"),
    data("zeros", "x.jsonl", sparse("x.jsonl", 10**7), "binary file"),
    data("picture", "x.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "x.png"),
    data(
        "git-lfs pointer",
        "x.csv",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "git-lfs pointer",
    ),
    data("empty folder", "x", lambda folder: (folder / "x").mkdir(), "contains no readable file"),
    data("glob of nothing", "*.csv", lambda folder: None, "contains no readable file"),
    data("ring of links", "x.csv", linked("x.csv", "x.csv"), "x.csv"),
    data("pipe", "x.csv", fifo("x.csv"), "x.csv"),
    data("device", "/dev/zero", lambda folder: None, "/dev/zero"),
    data("long name", "x" * 5000 + ".csv", lambda folder: None, "no such file"),
    data("cut gzip", "x.csv.gz", squeezed(b"question,answer\n" + b"a,b\n" * 5000)[:60], "damaged"),
    data("gzip that is none", "x.csv.gz", b"\x1f\x8bnope", "damaged"),
    data("zip of two", "x.zip", packed(a_csv="q,a\n", b_csv="q,a\n"), "x.zip"),
    data(
        "zip with a path out",
        "x.csv.zip",
        packed(**{"../../evil_csv": "first,second,third\nb,c,d\n"}),
        "column",
    ),
    data("cut parquet", "x.parquet", b"PAR1" + bytes(50) + b"PAR1", "cannot be read"),
    data("no parquet", "x.parquet", "hello", "neither Parquet nor"),
    data("JSON that is no table", "x.json", "3", "x.json"),
    data("cut JSON", "x.json", '[{"question": "a", "answer": "b"}, {"quest', "x.json"),
    data("deep JSON", "x.json", '{"a":' * 50_000, "x.json"),
    data("deep JSON line", "x.jsonl", "[" * 50_000 + "]" * 50_000 + "\n", "x.jsonl"),
    data("lines that are lists", "x.jsonl", "[1]\n[2]\n", "x.jsonl"),
    data(
        "rows without targets", "x.jsonl", '{"question": "a", "answer": ""}\n' * 3, "empty target"
    ),
    data(
        "columns of no known name",
        "x.csv",
        "first,second,third\na,b,c\n",
        "cannot guess the target column",
    ),
    data("columns with escapes", "x.csv", f"{ESCAPE},b,c\n1,2,x\n", "\\x1b[31mred"),
    data(
        "a column that forges a hint",
        "x.csv",
        '"a\nhint: curl evil",b,c\n1,2,x\n',
        "a\\nhint: curl evil",
    ),
    data(
        "unknown column",
        "x.csv",
        "question,answer\na,b\n",
        "did you mean 'question'",
        3,
        " --set data.source_column=qestion",
    ),
    data("entity bomb", "x.tmx", BOMB, "x.tmx"),
    data(
        "entity of a file",
        "x.tmx",
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><tmx><body><tu><tuv '
        "xml:lang='en'><seg>&a;</seg></tuv></tu></body></tmx>",
        "x.tmx",
    ),
    data("cut TMX", "x.tmx", "<tmx version='1.4'><body><tu><tuv xml:lang='en'><seg>a", "x.tmx"),
    data(
        "a weight that is none",
        "x.csv@-3",
        file("x.csv", "question,answer\na,b\n"),
        "invalid weight",
        2,
    ),
    data("no such demo data", "demo:nix", lambda folder: None, "no such data"),
    data("a hub's data, offline", "hf:no/such-data", lambda folder: None, "could not load", 5),
    data(
        "code that is not there",
        "x.csv",
        "question,answer\na,b\n",
        "nix_module",
        2,
        " --set data.format=nix_module:f",
    ),
]

TEXTS = [
    Case(f"texts: {name}", f"predict BASE {words}", code, said, spoil, plain=plain)
    for name, words, code, said, spoil, plain in (
        ("none", "", 2, "expected texts", lambda folder: None, False),
        ("both", "a --input x.txt", 2, "not both", file("x.txt", "a\n"), False),
        ("empty file", "--input x.txt", 3, "nothing to answer", file("x.txt", ""), False),
        ("not JSON", "--input x.jsonl", 3, "not a JSON line", file("x.jsonl", "{]\n"), False),
        ("a list", "--input x.jsonl", 3, "not a JSON object", file("x.jsonl", "[1]\n"), False),
        (
            "deep",
            "--input x.jsonl",
            3,
            "not a JSON line",
            file("x.jsonl", "[" * 100_000 + "\n"),
            False,
        ),
        (
            "a long number",
            "--input x.jsonl",
            3,
            "not a JSON line",
            file("x.jsonl", '{"a": ' + "9" * 5000 + "}\n"),
            False,
        ),
        (
            "no column",
            "--input x.jsonl",
            3,
            "no source can be made",
            file("x.jsonl", '{"z\\u001b": 1}\n'),
            False,
        ),
        ("not UTF-8", "--input x.txt", 3, "x.txt:1", file("x.txt", b"\xff\xff\n"), False),
        (
            "output is a spreadsheet's",
            "=HYPERLINK() --output x.csv",
            2,
            "never a spreadsheet's",
            lambda folder: None,
            False,
        ),
        ("output is a folder", "a --output .", 2, "is a folder", lambda folder: None, False),
        ("output in a file", "a --output x.txt/y", 2, "it is a file", file("x.txt", ""), False),
    )
]
