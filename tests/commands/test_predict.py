"""``predict``: files named as texts, tables that stay tables, adapters by name."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_parts import Invoke, write_csv

from lora_s2s.commands.predict import _chat
from lora_s2s.errors import ResourceError, SetupError
from lora_s2s.inference.decode import decode
from lora_s2s.inference.engine import DecodingSettings
from lora_s2s.pipeline.inputs import Inputs, read_inputs
from lora_s2s.pipeline.names import located, located_model
from lora_s2s.pipeline.predictions import lines_of
from lora_s2s.pipeline.ranking import FIELDS
from lora_s2s.recipe.evaluation import limit_for

LESS = ("--set", "evaluation.max_new_tokens=3")


@pytest.fixture
def adapter(
    invoke: Invoke, here: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """adapters/banking, trained once for this file and copied here."""
    kept = tmp_path_factory.getbasetemp() / "banking"
    if not kept.exists():
        write_csv(here / "train.csv")
        keys = (
            f"model.name={tiny_model}",
            "data.train=train.csv",
            "output.name=banking",
            "training.max_steps=1",
        )
        invoke("train", "flan-t5-small", *(part for key in keys for part in ("--set", key)))
        shutil.copytree(here / "adapters" / "banking", kept)
    shutil.copytree(kept, here / "adapters" / "banking", dirs_exist_ok=True)
    return here / "adapters" / "banking"


@pytest.mark.parametrize("name", ["new.txt", "data.csv", "README", "my file.txt", "folder/q.jsonl"])
def test_a_text_that_is_a_files_name_is_asked_about(
    invoke: Invoke, here: Path, tiny_model: Path, name: str
) -> None:
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).write_text("first line\nsecond line\n", encoding="utf-8")
    result = invoke("predict", str(tiny_model), "hello", name, *LESS, code=2)
    assert f"'{name}' is a file" in result.stderr
    assert "--input " in result.stderr
    assert "--text " in result.stderr
    assert result.stdout == ""
    forced = invoke("predict", str(tiny_model), "--text", name, *LESS).stdout
    (here / name).unlink()
    assert invoke("predict", str(tiny_model), name, *LESS).stdout == forced


def test_words_that_are_no_files_are_answered(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    (here / "folder").mkdir()
    words = ["folder", "x" * 5000, "-x y"[1:], "missing.txt"]
    result = invoke("predict", str(tiny_model), *words, *LESS)
    assert result.stdout.count("\n") == len(words)
    assert "there is no file 'missing.txt'" in result.stderr
    assert result.stderr.count("there is no file") == 1


def records(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def test_csv_in_csv_out_with_every_column(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    rows = [
        {"id": "007", "source": 'say "a, b"', "note": "two\nlines"},
        {"id": "8", "source": "c", "note": ""},
    ]
    with (here / "in.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    words = ("predict", str(tiny_model), "--input", "in.csv", *LESS)
    out = records(invoke(*words).stdout)
    assert [{key: row[key] for key in rows[0]} for row in out] == rows
    assert list(out[0]) == ["id", "source", "note", "prediction"]
    invoke(*words, "--output", "out.csv")
    assert records((here / "out.csv").read_text(encoding="utf-8")) == out
    invoke(*words, "--output", "out.tsv")
    assert records((here / "out.tsv").read_text(encoding="utf-8"), "\t") == out
    invoke(*words, "--output", "out.jsonl")
    lines = (here / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == out
    # What was written is read again: the old prediction column is replaced.
    again = records(invoke("predict", str(tiny_model), "--input", "out.csv", *LESS).stdout)
    assert again == out


@pytest.mark.parametrize(
    ("name", "content", "delimiter"),
    [
        ("a.csv", "source;n\nx;1\ny;2\n", ";"),
        ("a.csv", "sep=|\nsource|n\nx|1\n", "|"),
        ("a.tsv", "source\tn\nx\t1\ny\t2\n", "\t"),
        ("a.csv", "\ufeffsource,n\r\nx,1\r\n", ","),
        ("a.csv", "source\nx\ny\n", ","),
    ],
)
def test_a_table_keeps_its_delimiter(here: Path, name: str, content: str, delimiter: str) -> None:
    (here / name).write_text(content, encoding="utf-8")
    inputs = read_inputs([], name)
    out = records("".join(lines_of(inputs, ["p"] * inputs.count)), delimiter)
    assert {row["prediction"] for row in out} == {"p"}
    assert [row["source"] for row in out] == ["x", "y"][: len(out)]


def test_two_columns_without_a_header_stay_without(here: Path) -> None:
    (here / "two.tsv").write_text("a\tx\nb\ty\n", encoding="utf-8")
    inputs = read_inputs([], "two.tsv", parallel=True)
    assert "".join(lines_of(inputs, ["1", "2"])) == "a\tx\t1\nb\ty\t2\n"


def test_an_output_of_another_kind_is_refused_before_the_model_is_loaded(
    invoke: Invoke, here: Path
) -> None:
    (here / "in.csv").write_text("source\na\n", encoding="utf-8")
    (here / "in.jsonl").write_text('{"source": "a"}\n', encoding="utf-8")
    for source, output in (("in.jsonl", "o.csv"), ("in.csv", "o.xlsx"), ("in.csv", "o.csv.gz")):
        result = invoke("predict", "demo", "--input", source, "--output", output, code=2)
        assert "hint: --output o." in result.stderr
    (here / "link.csv").symlink_to("in.csv")
    for output in ("in.csv", "link.csv", str(here / "in.csv")):
        result = invoke("predict", "demo", "--input", "in.csv", "--output", output, code=2)
        assert f"--output {output} is the input, which would be replaced" in result.stderr
    assert (here / "in.csv").read_text(encoding="utf-8") == "source\na\n"
    assert sorted(path.name for path in here.iterdir()) == ["in.csv", "in.jsonl", "link.csv"]


def test_a_mistyped_path_is_a_folder_that_is_missing_and_no_hub_model(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    for name in ("adapters/support-ticket", "./it", "../it", "~/nix/it"):
        stderr = invoke("predict", name, "x", code=2).stderr
        assert f"error: no such folder: {name}" in stderr
        assert "fetched" not in stderr
    (here / "it.running").mkdir()
    stderr = invoke("predict", "./it", "x", code=2).stderr
    assert stderr.endswith("hint: continue: lora-s2s train it.running/recipe.yaml --resume\n")
    shutil.copytree(tiny_model, here / "adapters" / "support-tickets")
    stderr = invoke("predict", "adapters/support-ticket", "x", code=2).stderr
    assert "(did you mean 'support-tickets'?)" in stderr


def test_answers_that_look_like_formulas_are_reported(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    (here / "in.csv").write_text("source\na\nb\nc\n", encoding="utf-8")
    inputs = read_inputs([], "in.csv")
    written = "".join(lines_of(inputs, ['=HYPERLINK("http://x")', "-5.2", "@SUM(A1)"]))
    assert [row["prediction"] for row in records(written)] == [
        '=HYPERLINK("http://x")',
        "-5.2",
        "@SUM(A1)",
    ]
    assert "2 predictions begin with = + - or @" in capsys.readouterr().err
    assert next(lines_of(Inputs.of(["a"], ["1"]), ["=1+1"], output="x.jsonl")).startswith('{"text"')
    assert capsys.readouterr().err == ""


def test_an_adapters_name_works_where_its_folder_does(
    invoke: Invoke, here: Path, adapter: Path
) -> None:
    by_folder = invoke("predict", "adapters/banking", "a card", *LESS)
    by_name = invoke("predict", "banking", "a card", *LESS)
    assert by_name.stdout == by_folder.stdout
    assert "banking is the adapter in adapters/banking" in by_name.stderr
    write_csv(here / "held.csv", rows=5)
    scores = json.loads(invoke("eval", "banking", "--data", "held.csv", *LESS, "--json").stdout)
    assert scores["predictions"] == "adapters/banking/evaluations/held/predictions.jsonl"
    invoke("merge", "banking", "--out", "merged")
    assert (here / "merged" / "config.json").is_file()
    assert "adapters/banking" in invoke("adapters", "show", "banking").stderr


def test_an_existing_path_and_the_bundled_base_win_over_an_adapters_name(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("banking", "demo"):
        (here / "adapters" / name).mkdir(parents=True)
        (here / "adapters" / name / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert located("banking") == "adapters/banking"
    assert located("demo") == "demo"
    assert (
        "demo is the bundled base; the adapter of that name is adapters/demo"
        in capsys.readouterr().err
    )
    (here / "banking").mkdir()
    assert located("banking") == "banking"
    assert "banking is the folder here" in capsys.readouterr().err
    assert located("bankign") == "bankign"
    assert "no adapter 'bankign' in adapters (did you mean 'banking'?)" in capsys.readouterr().err
    (here / "adapters" / "half.running").mkdir()
    (here / "begun.yaml").touch()
    with pytest.raises(SetupError) as never_trained:
        located_model("begun")
    assert never_trained.value.hint == "train it first: lora-s2s train begun.yaml"
    assert located("half") == "adapters/half"  # whose training is then said to be unfinished
    for other in (
        "other",
        "adapters/banking",
        "./banking",
        "../banking",
        "google/flan-t5-small",
        "~",
        "",
    ):
        assert located(other) == other
    assert capsys.readouterr().err == ""


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_s2s.pipeline.predict._ROWS_AT_ONCE", 3)


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """``stopping(error)``: decoding raises it when it is called for the third time."""

    def arm(error: BaseException) -> None:
        calls = iter(range(100))

        def failing(*arguments: Any) -> Any:
            if next(calls) == 2:
                raise error
            return decode(*arguments)

        monkeypatch.setattr("lora_s2s.inference.decode.decode", failing)

    return arm


LETTERS = [f"line {letter}" for letter in "abcdefgh"]


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("name", ["out.txt", "out.jsonl", "out.parquet"])
def test_a_stopped_run_continues_to_the_same_file(
    invoke: Invoke,
    here: Path,
    tiny_model: Path,
    stopping: Callable[[BaseException], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    (here / "my in.txt").write_text("\n".join(LETTERS) + "\n", encoding="utf-8")
    command = ("predict", str(tiny_model), "--input", "my in.txt", "--output", name, *LESS)
    invoke(*command)
    whole = (here / name).read_bytes()
    (here / name).unlink()
    with monkeypatch.context():
        stopping(SystemExit(130))  # as the command line's handler of Ctrl-C does
        result = invoke(*command, code=130)
    resumed = [*command, "--resume"]
    holds = f"{name}.part holds 6 of 8 answers; continue: lora-s2s {shlex.join(resumed)}\n"
    assert holds in result.stderr
    assert not (here / name).exists()

    part = here / f"{name}.part"
    refused = invoke(*command, code=2)
    assert "holds 6 answers of an earlier run that did not finish" in refused.stderr
    assert f"continue: lora-s2s {shlex.join(resumed)}" in refused.stderr
    changed = invoke(*command, "--set", "evaluation.num_beams=2", "--resume", code=2)
    assert "was made with another decoding" in changed.stderr
    with part.open("ab") as stream:
        stream.write(b'"a line that was cut o')
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr("lora_s2s.pipeline.predict._ROWS_AT_ONCE", 3)
    result = invoke(*resumed)
    assert "continuing: 6 of 8 inputs are answered" in result.stderr
    assert (here / name).read_bytes() == whole
    assert not part.exists()


@pytest.mark.usefixtures("few_at_once")
def test_a_failure_keeps_what_was_answered(
    invoke: Invoke, here: Path, tiny_model: Path, stopping: Callable[[BaseException], None]
) -> None:
    (here / "in.txt").write_text("\n".join(LETTERS) + "\n", encoding="utf-8")
    command = ("predict", str(tiny_model), "--input", "in.txt", "--output", "out.txt", *LESS)
    stopping(ResourceError("out of memory"))
    invoke(*command, code=4)
    assert len((here / "out.txt.part").read_text("utf-8").splitlines()) == 1 + 6
    (here / "in.txt").write_text("other\n" * 8, encoding="utf-8")
    changed = invoke(*command, "--resume", code=2)
    assert "was made with another input" in changed.stderr


def test_a_row_that_cannot_be_rendered_is_found_before_anything_is_answered(
    invoke: Invoke, here: Path, adapter: Path, stopping: Callable[[BaseException], None]
) -> None:
    rows = [{"question": "a"}] * 5 + [{"other": "b"}]
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = ("predict", "banking", "--input", "in.jsonl", "--output", "out.jsonl")
    result = invoke(*command, code=3)
    assert "in.jsonl, row 6" in result.stderr
    assert not list(here.glob("out*"))


@pytest.mark.usefixtures("few_at_once")
def test_a_row_without_a_source_has_an_empty_prediction(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    # Four of eight, in three groups: one is all blank.
    sources = ["a b", "c", None, "", " ", None, "d", "e"]
    rows = [{"source": source, "id": number} for number, source in enumerate(sources)]
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = ("predict", str(tiny_model), "--input", "in.jsonl", *LESS)
    result = invoke(*command)
    where = "inputs without a text: 4 of 8, the first at"
    warning = f"{where} in.jsonl, row 3; their predictions are empty"
    assert result.stderr.count(warning) == 1
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["id"] for row in answers] == list(range(8))
    asked = [str(source) for source in sources if source and source.strip()]
    alone = iter(invoke("predict", str(tiny_model), *asked, *LESS).stdout.splitlines())
    blank = (2, 3, 4, 5)
    expected = ["" if number in blank else next(alone) for number in range(8)]
    assert [row["prediction"] for row in answers] == expected
    chosen = invoke(*command, "--scores", "--labels", "x, y")
    scored = [json.loads(line) for line in chosen.stdout.splitlines()]
    assert [row["prediction"] == "" for row in scored] == [n in blank for n in range(8)]
    assert scored[2] == {**rows[2], "prediction": "", **dict.fromkeys(FIELDS)}
    texts = [str(source or "") for source in sources]
    (here / "in.txt").write_text("\n".join(texts), encoding="utf-8")
    command = ("predict", str(tiny_model), "--input", "in.txt", *LESS)
    result = invoke(*command)
    assert result.stderr.count(f"{where} in.txt:3; their") == 1
    assert result.stdout.split("\n")[:-1] == expected
    lines = invoke(*command, "--scores", "--labels", "x, y").stdout.split("\n")[:-1]
    assert [line == "\t" for line in lines] == [n in blank for n in range(8)]


def test_words_without_quotes_are_answered_one_by_one_with_a_warning(
    invoke: Invoke, tiny_model: Path
) -> None:
    model, warning = str(tiny_model), "each of the 2 words is answered as a text of its own; as one"
    result = invoke("predict", model, "a", "b", *LESS)
    assert f"{warning}: lora-s2s predict {model} 'a b'\n" in result.stderr
    assert len(result.stdout.splitlines()) == 2
    for texts in (["a b", "c"], ["a"], ["--text", "a", "--text", "b"]):
        assert "words is" not in invoke("predict", model, *texts, *LESS).stderr


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.csv"])
def test_another_encoding_is_named_with_the_command_that_reads_it(
    invoke: Invoke, here: Path, tiny_model: Path, name: str
) -> None:
    row = {"in.jsonl": '{"source": "Größe"}', "in.csv": "source,id\nGröße,1"}.get(name, "Größe")
    (here / name).write_bytes(f"{row}\n".encode("cp1252"))
    command = ("predict", str(tiny_model), "--input", name, *LESS)
    result = invoke(*command, code=3)
    assert "invalid UTF-8" in result.stderr
    assert "--set data.encoding=cp1252\n" in result.stderr
    assert f"'Größe' in cp1252: lora-s2s {' '.join(command)} --set " in result.stderr
    told = invoke(*command, "--set", "data.encoding=cp1252").stdout
    (here / name).write_text(f"{row}\n", "utf-8")
    assert told == invoke(*command, "--set", "data.encoding=cp1252").stdout
    assert ("Größe" in told) is (name != "in.txt")


def test_parquet_keeps_its_types(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    table = pa.table(
        {
            "source": ["a", "b"],
            "when": pa.array([1, None], type=pa.timestamp("ms")),
            "small": pa.array([1, 2], type=pa.int8()),
        }
    )
    pq.write_table(table, here / "in.parquet")
    command = ("predict", str(tiny_model), "--input", "in.parquet", *LESS)
    invoke(*command, "--output", "out.parquet")
    written = pq.read_table(here / "out.parquet")
    assert written.select(["source", "when", "small"]).equals(table)
    assert written.schema.field("prediction").type == pa.string()
    (here / "mixed.jsonl").write_text(
        '{"source": "a", "n": 1}\n{"source": "b", "n": "x"}\n', "utf-8"
    )
    refused = invoke(
        "predict", str(tiny_model), "--input", "mixed.jsonl", "--output", "m.parquet", *LESS, code=2
    )
    assert "do not have the same types" in refused.stderr
    assert "hint: --output FILE.jsonl" in refused.stderr
    assert not list(here.glob("m.parquet*"))


def test_a_column_that_only_a_later_row_has_stays(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    (here / "in.jsonl").write_text('{"source": "a"}\n{"source": "b", "n": 2}\n', "utf-8")
    command = ("predict", str(tiny_model), "--input", "in.jsonl", "--output", "out.parquet")
    invoke(*command, *LESS)
    assert pq.read_table(here / "out.parquet").column("n").to_pylist() == [None, 2]


def test_several_answers_go_out_in_every_format(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    (here / "in.csv").write_text("id,source\n7,what is\n8,house\n", "utf-8")
    command = ("predict", str(tiny_model), "--n-best", "2", "--set", "evaluation.num_beams=3")
    invoke(*command, *LESS, "--input", "in.csv", "--output", "out.jsonl")
    rows = [json.loads(line) for line in (here / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["7", "8"]
    assert [len(row["n_best"]) for row in rows] == [2, 2]
    assert all(row["n_best"][0]["text"] == row["prediction"] for row in rows)
    invoke(*command, *LESS, "--input", "in.csv", "--output", "out.parquet")
    table = pq.read_table(here / "out.parquet").to_pylist()
    assert [row["n_best"] for row in table] == [row["n_best"] for row in rows]
    tables = csv.DictReader(io.StringIO(invoke(*command, *LESS, "--input", "in.csv").stdout))
    assert [json.loads(row["n_best"]) for row in tables] == [row["n_best"] for row in rows]
    lines = invoke(*command, *LESS, "what is", "house").stdout.splitlines()
    assert lines == [
        f"{number}\t{one['score']:.4f}\t{one['text']}"
        for number, row in enumerate(rows, start=1)
        for one in row["n_best"]
    ]
    refused = invoke("predict", str(tiny_model), "house", "--n-best", "2", code=2)
    assert "hint: --set evaluation.num_beams=2" in refused.stderr
    for option, said in (("--scores", "decodes nothing"), ("--interactive", "one answer")):
        assert said in invoke(*command, option, code=2).stderr


@pytest.mark.parametrize(("p99", "longest"), [(1, 1), (20, 24), (60, 110), (60, 900), (7, 3)])
def test_the_limit_cuts_only_outliers_among_the_training_targets(p99: int, longest: int) -> None:
    limit = limit_for(p99, longest)
    assert min(max(longest, p99), 2 * p99) < limit <= 2 * p99 + 16
    assert limit_for(10**9, 10**9) == 65_536


def test_the_length_limit_is_that_of_the_training_targets(
    invoke: Invoke, here: Path, adapter: Path
) -> None:
    path = adapter / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    p99, longest = (manifest["input"][name] for name in ("target_p99", "longest_target"))
    limit = limit_for(p99, longest)
    told = invoke("predict", "banking", "a question").stderr
    assert f"decoding: greedy, at most {limit} tokens (auto: 99 % of the training targets" in told
    told = invoke("predict", "banking", "a question", "another", *LESS).stderr
    assert "decoding: greedy, at most 3 tokens\n" in told
    assert "2 of 2 answers were cut: evaluation.max_new_tokens=3" in told
    # Adapters that do not record them keep the limit of their targets.
    del manifest["input"]["target_p99"]
    path.write_text(json.dumps(manifest), "utf-8")
    auto = ("--set", "evaluation.max_new_tokens=auto")
    told = invoke("predict", "banking", "a question", *auto).stderr
    assert f"at most {manifest['input']['max_target_tokens']} tokens\n" in told


def test_the_end_of_a_chat_ends_the_line_of_the_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Typed(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Typed("\n"))
    _chat(SimpleNamespace(reads_dialogues=False), DecodingSettings())  # type: ignore[arg-type]
    shown = capsys.readouterr()
    assert shown.out == "> > "
    assert shown.err == "Ctrl-D ends\n\n"


def test_a_chat_answers_line_by_line(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    chat = invoke("predict", str(tiny_model), "--interactive", *LESS, input="hello\n\nyou\n").stdout
    assert chat == invoke("predict", str(tiny_model), "hello", "you", *LESS).stdout
    refused = invoke("predict", str(tiny_model), "hello", "--interactive", code=2)
    assert "takes no texts and no files" in refused.stderr
    piped = invoke("predict", "no_model", input="hello\n", code=2).stderr
    assert piped.endswith(" (- for stdin)\nhint: lora-s2s predict no_model --input -\n")


def test_texts_get_the_system_text_of_the_training_conversations(
    invoke: Invoke, here: Path, tiny_model: Path
) -> None:
    said = ["Be brief.", "a table", "two", "for whom", "four"]
    roles = ["system", "user", "assistant", "user", "assistant"]
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    (here / "talk.jsonl").write_text(json.dumps({"messages": turns}), encoding="utf-8")
    settings = ("data.validation_fraction=0", "training.max_steps=1", "output.name=talk")
    words = [word for setting in settings for word in ("--set", setting)]
    invoke("train", "--data", "talk.jsonl", "--model", str(tiny_model), *words)
    answered = invoke("predict", "talk", "a table", *LESS)
    assert "\nsystem text, as in each training conversation: Be brief.\n" in answered.stderr
    chat = invoke("predict", "talk", "--interactive", *LESS, input="a table\nfor whom\n")
    assert "system text, as in each" in chat.stderr
    turns[2]["content"], second = chat.stdout.splitlines()
    assert turns[2]["content"] == answered.stdout.removesuffix("\n")
    (here / "asked.jsonl").write_text(json.dumps({"messages": turns[:4]}), encoding="utf-8")
    rows = invoke("predict", "talk", "--input", "asked.jsonl", *LESS)
    assert json.loads(rows.stdout)["prediction"] == second
    assert "system text, as" not in rows.stderr


def test_resume_needs_a_file(invoke: Invoke, here: Path, tiny_model: Path) -> None:
    refused = invoke("predict", str(tiny_model), "hello", "--resume", code=2)
    assert "hint: add --output FILE" in refused.stderr
    refused = invoke(
        "predict", str(tiny_model), "hello", "--resume", "--output", os.devnull, code=2
    )
    assert "is not a file that could be continued" in refused.stderr
