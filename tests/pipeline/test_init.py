"""``init`` and ``train FILE``: what is decided from a file and why, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from cli_parts import Invoke, here, invoke, tiny_model, write_csv

import lora_s2s
from lora_s2s.errors import DataError, ResourceError, UsageError
from lora_s2s.pipeline.base_choice import Machine
from lora_s2s.pipeline.init import StarterRecipe, starter_recipe, write_recipe
from lora_s2s.pipeline.planned import Device
from lora_s2s.pipeline.wishes import Wishes, look
from lora_s2s.recipe.load import load_recipe

__all__ = ["here", "invoke", "tiny_model"]

_NUMBERS = "one two three four five six seven eight nine ten".split()
_WORDS = "the house of my friend is on a hill and it was built for two of us by hand".split()
_GERMAN = "das Haus und der Garten sind nicht für die Kinder von nebenan auf dem Hügel".split()


def sentence(number: int, words: Sequence[str] = _WORDS) -> str:
    """A distinct sentence of these words."""
    chance = random.Random(number)
    return " ".join([*chance.sample(words, len(words)), str(number)])


def table(columns: str, row: Callable[[int], Sequence[str]]) -> Iterator[dict[str, str]]:
    """Sixty rows with these columns."""
    for number in range(60):
        yield dict(zip(columns.split(), row(number), strict=True))


def record(number: int) -> str:
    """A JSON object."""
    return json.dumps({"place": _NUMBERS[number % 10], "nights": number})


def code(number: int) -> str:
    """A line of code with many characters that T5's vocabulary lacks."""
    return f"def f{number}(): return '{''.join(map(chr, range(0x2200, 0x2300)))}'"


def turns(number: int) -> dict[str, object]:
    """A dialogue of two turns."""
    said = [("human", sentence(number)), ("gpt", sentence(number + 1000))]
    return {"conversations": [{"from": who, "value": text} for who, text in said]}


FILES = {
    "labels": (
        table("text label", lambda n: (sentence(n), _NUMBERS[n % 3])),
        "google/flan-t5",
        ["exact_match", "macro_f1"],
    ),
    "contradicting": (
        table("text label", lambda n: (sentence(n % 20), _NUMBERS[n % 7 % 2])),
        "google/flan-t5",
        ["exact_match", "macro_f1"],
    ),
    "json": (
        table("input output", lambda n: (sentence(n), record(n))),
        "google/flan-t5",
        ["json_f1", "json_valid", "exact_match"],
    ),
    "nllb": (
        table("en de", lambda n: (sentence(n), sentence(n, _GERMAN))),
        "facebook/nllb-200",
        ["chrf", "bleu"],
    ),
    "rare-language": (
        table("en kv", lambda n: (sentence(n), sentence(n, _GERMAN))),
        "google/byt5",
        ["chrf", "bleu"],
    ),
    "german": (
        table("input output", lambda n: (sentence(n, _GERMAN), sentence(n + 99, _GERMAN))),
        "google/mt5",
        ["rougeL", "chrf", "exact_match"],
    ),
    "spelling": (
        table("word phonemes", lambda n: (f"w{n}rd", f"w {n} ɔː d")),
        "google/byt5",
        ["exact_match", "token_f1", "chrf"],
    ),
    "code": (
        table("input output", lambda n: (sentence(n), code(n))),
        "Salesforce/codet5",
        ["rougeL", "chrf", "exact_match"],
    ),
    "dialogues": (map(turns, range(60)), "google/flan-t5", ["rougeL", "chrf", "exact_match"]),
}


@pytest.mark.parametrize("kind", FILES)
def test_base_and_metrics_follow_the_data(here: Path, kind: str) -> None:
    rows, base, metrics = FILES[kind]
    lines = [json.dumps(row) for row in rows]
    (here / f"{kind}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    written = lora_s2s.init(f"{kind}.jsonl", gpu_memory="16GB", progress=False)
    recipe = load_recipe(str(written.path))
    assert recipe.model.name.startswith(base)
    assert recipe.evaluation.metrics == metrics
    of_labels = kind in ("labels", "contradicting")
    assert recipe.evaluation.constraint == ("labels" if of_labels else None)
    assert (recipe.data.source_language == "eng_Latn") == (kind == "nllb")
    assert (recipe.data.format == "conversations") == (kind == "dialogues")
    text = written.path.read_text(encoding="utf-8").splitlines()
    for decision in written.decisions:  # each stands below its reason
        line = text.index(f"  {decision.key.partition('.')[2]}: {decision.in_yaml}")
        assert text[line - 1].startswith("  # ")


@pytest.mark.parametrize("words", [_GERMAN, _WORDS])
def test_a_base_that_was_given_and_is_not_for_the_data_is_told(
    here: Path, invoke: Invoke, words: Sequence[str]
) -> None:
    rows = table("input output", lambda n: (sentence(n, words), sentence(n + 99, words)))
    lines = [json.dumps(row) for row in rows]
    (here / "my.jsonl").write_text("\n".join(lines), encoding="utf-8")
    told = invoke("init", "my.jsonl", "--yes", "--set", "model.name=demo").stderr
    given = "demo was given; without it, a base of mT5 is taken (for texts in German)\n"
    assert (given in told) == (words is _GERMAN)


def chosen(written: StarterRecipe, key: str) -> tuple[object, str]:
    """A key's value and reason."""
    decision = next(one for one in written.decisions if one.key == key)
    return decision.value, decision.reason


def test_the_size_of_the_base_follows_memory_and_time(here: Path) -> None:
    write_csv(here / "my.csv")
    sizes = [
        chosen(lora_s2s.init("my.csv", gpu_memory=memory, progress=False), "model.name")
        for memory in ("2GB", "8GB", "40GB")
    ]
    write_csv(here / "long.csv", 6000)
    large = {"model.name": "google/flan-t5-xxl"}
    long = lora_s2s.init("long.csv", large, gpu_memory="80GB", progress=False)
    reason = chosen(long, "training.epochs")[1]
    assert re.search(r" min here when idle; shorter: --set training\.max_steps=[1-9]\d*$", reason)
    names = [name for name, _ in sizes]
    order = ["google/flan-t5-small", "google/flan-t5-base", "google/flan-t5-large"]
    order += ["google/flan-t5-xl", "google/flan-t5-xxl"]
    places = [order.index(str(name)) for name in names]
    assert places == sorted(set(places))
    assert re.fullmatch(r"for texts in English; takes about .+ on a GPU", sizes[0][1])
    four_bits = lora_s2s.init("my.csv", {"model.name": order[3]}, gpu_memory="4GB", progress=False)
    assert chosen(four_bits, "model.quantization")[0] == "nf4"
    assert chosen(four_bits, "training.gradient_checkpointing")[0] is True
    with pytest.raises(ResourceError, match=r"does not fit into a GPU, 4\.0 GB even in 4 bits"):
        lora_s2s.init("my.csv", {"model.name": order[4]}, gpu_memory="4GB", progress=False)
    with pytest.raises(UsageError, match="--gpu-memory is 'lots'"):
        lora_s2s.init("my.csv", gpu_memory="lots", progress=False)


def test_on_a_cpu_a_first_adapter_takes_minutes_and_the_next_larger_base_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{sentence(n, _GERMAN)},{_NUMBERS[n % 4]}" for n in range(372)]
    (here / "my.csv").write_text("\n".join(["text,label", *lines]), "utf-8")
    names = []
    for cores in (1, 4, 100):
        machine = Machine(Device("cpu", 20 * 10**9), 20 * 10**9, cores, "CPU")
        monkeypatch.setattr("lora_s2s.pipeline.init.this_machine", lambda machine=machine: machine)
        written = write_recipe(look(Wishes(["my.csv"])))
        name, reason = chosen(written, "model.name")
        names.append(name)
        # One sentence, and one line on the next base that fits into memory.
        assert re.fullmatch(r"for texts in German; takes about \S+ GB and [\w ]+ on CPU", reason)
    assert names == ["google/mt5-small", "google/mt5-base", "google/mt5-large"]
    shown = capsys.readouterr().err
    for larger in names[1:]:
        command = f"--set model.name={larger}"
        assert re.search(rf"\n    larger: {larger}, about .+ (min|h): {command}\n", shown)
    assert shown.count("larger: ") == 2  # mt5-xl does not fit
    assert "  # its size: the largest whose run fits" in written.text
    assert "pytorch_model.bin" in written.text
    assert "pytorch_model.bin" not in shown


def test_lengths_are_those_of_the_texts_not_of_what_is_left_of_them(here: Path) -> None:
    rows = [{"source": f"{n} " + "long " * 2000, "target": f"answer {n}"} for n in range(40)]
    text = "\n".join(map(json.dumps, rows))
    (here / "my.jsonl").write_text(text, encoding="utf-8")
    base = {"model.name": "demo"}
    reason = chosen(lora_s2s.init("my.jsonl", base, progress=False), "data.max_source_tokens")[1]
    head = (here / "my.yaml").read_text(encoding="utf-8")
    assert re.search(r"\n# Machine: CPU .+, \d+ threads?, [\d.]+ [GM]B\n", head)
    longest = lora_s2s.prepare("my.yaml", progress=False).report["source_tokens"]["max"]
    assert longest > 2000
    assert reason.startswith("auto: 1,024; half have up to ")
    assert f"the longest {longest:,} (demo's tokens)" in reason
    with pytest.raises(UsageError, match="expected a file of training data"):
        lora_s2s.init([])


def test_an_edited_recipe_is_kept_and_an_untouched_one_replaced(
    here: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "my.csv")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "expected a file" in invoke("init", code=2).stderr
    result = invoke("init", "--data", "my.csv", "--json", "--set", "lora.r=4")
    written = json.loads(result.stdout)
    assert written["recipe"] == "my.yaml"
    reasons = {one["key"]: one for one in written["reasons"]}
    assert (reasons["lora.r"]["value"], reasons["lora.r"]["reason"]) == (4, "given by you")
    assert reasons["training.learning_rate"]["source"].startswith("lora_s2s/recipe/defaults.py")
    assert "no terminal: nothing is asked" in result.stderr
    assert ", and the hub is switched off (HF_HUB_OFFLINE): --set" in result.stderr
    assert "next: lora-s2s train my.yaml --set model.name=demo\n" in result.stderr
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    online = invoke("init", "my.csv", "--yes", "--set", "lora.r=8").stderr
    assert "train downloads it" in online
    assert "next: lora-s2s train my.yaml\n" in online
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_recipe("my.yaml").lora.r == 8
    kept = invoke("init", "my.csv", "--yes").stderr
    gave = (
        "my.yaml was not edited: decided anew, but for what you gave before (lora.r=8; to drop it: "
    )
    assert f"{gave}lora-s2s init my.csv --out my.yaml --overwrite)\n" in kept
    assert load_recipe("my.yaml").lora.r == 8
    assert lora_s2s.init("my.csv", progress=False).recipe.lora.r == 8
    write_csv(here / "their.csv")
    refused = invoke("init", "their.csv", "--out", "my.yaml", code=2).stderr
    assert "my.yaml is a recipe for other data: my.csv\n" in refused
    assert "or replace it: lora-s2s init their.csv --out my.yaml --overwrite\n" in refused
    path = here / "my.yaml"
    text = path.read_text(encoding="utf-8").replace("r: 8", "r: 9")
    other = text.replace(f"lora-s2s {lora_s2s.__version__}", "lora-s2s 7.0").replace(" r: ", " q: ")
    path.write_text(other, encoding="utf-8")
    assert "written by lora-s2s 7.0, and this is" in invoke("train", "my.yaml", code=2).stderr
    path.write_text(text, encoding="utf-8")
    refused = invoke("init", "--data", "my.csv", code=2)
    assert "my.yaml exists and is not as init wrote it" in refused.stderr
    assert "train by it: lora-s2s train my.yaml; " in refused.stderr
    anew = "lora-s2s init --data my.csv --overwrite --set lora.r=9\n"
    assert f"or replace it: {anew}" in refused.stderr
    invoke("init", "--data", "my.csv", "--overwrite")
    assert load_recipe("my.yaml").lora.r == 16


def test_at_most_four_questions_are_asked(
    here: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"c{number}", sentence(number), str(number)) for number in range(40)]
    with (here / "my.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("alpha", "beta", "gamma"), *rows])
    with pytest.raises(DataError, match="cannot guess"):
        write_recipe(look(Wishes(["my.csv"])))
    answers = {"Source": "beta > gamma", "Memory": "8GB", "Instruction": "Count:", "Base": "demo"}
    asked: list[str] = []

    def ask(question: str, default: str) -> str:
        asked.append(question)
        return answers[question.split()[0]]

    written = write_recipe(look(Wishes(["my.csv"], ask=ask)))
    recipe = load_recipe(str(written.path))
    for key in ("data.source_column", "data.template", "model.name"):
        assert chosen(written, key)[1] == "your answer"
    assert [question.split()[0] for question in asked] == [*answers]
    assert (recipe.data.source_column, recipe.data.target_column) == ("beta", "gamma")
    assert (recipe.data.template, recipe.model.name) == ("Count: {beta}", "demo")
    answers["Source"], asked[:] = "alpha, beta > gamma", []
    answers["Base"] = str(tiny_model)
    written = write_recipe(look(Wishes(["my.csv"], ask=ask)))
    recipe = load_recipe(str(written.path))
    # The base's tokenizer counts where it is on this machine: a space, two digits, the end.
    assert chosen(written, "data.max_target_tokens")[1].endswith(f"({tiny_model}'s tokens)")
    assert "the longest 4 " in chosen(written, "data.max_target_tokens")[1]
    assert "several sources: A, B > TARGET" in asked[0]
    assert (recipe.data.source_column, recipe.data.template) == (None, "{alpha} {beta}")
    answers["Source"], asked[:] = "beta, gamma", []
    with pytest.raises(UsageError, match="expected columns with > between sources and target"):
        write_recipe(look(Wishes(["my.csv"], ask=ask)))
    assert [question.split()[0] for question in asked] == ["Source", "Source", "Source"]
    # What means nothing is asked again, with what was wrong.
    turns = {
        "Source": ["betta > gamma", "beta > gamma"],
        "Memory": ["lots", "8GB"],
        "Instruction": ["Count {x}:", ""],
        "Base": ["dmeo", "demo"],
    }
    capsys.readouterr()
    write_recipe(look(Wishes(["my.csv"], ask=lambda one, _: turns[one.split()[0]].pop(0))))
    wrong = capsys.readouterr().err
    for message in (
        "(did you mean 'beta'?)",
        "--gpu-memory is 'lots'",
        "expected plain words before each input",
        "no base 'dmeo' (did you mean 'demo'?)",
    ):
        assert message in wrong
    assert not any(turns.values())


def test_several_usual_names_for_one_role_are_asked_about_or_reported(
    here: Path, invoke: Invoke, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only where they hold different things: a copy, a constant and a title are no other answer."""
    columns = "text input label category labels title class"
    rows = [
        (sentence(n), sentence(n + 99), kind, _NUMBERS[n % 4], kind, sentence(n + 200), "c")
        for n, kind in enumerate(_NUMBERS[n % 3] for n in range(60))
    ]
    lines = [json.dumps(dict(zip(columns.split(), row, strict=True))) for row in rows]
    (here / "my.jsonl").write_text("\n".join(lines), encoding="utf-8")
    result = invoke("init", "my.jsonl", "--yes", "--set", "data.source_column=text")
    took = "warning: took 'label' as the target; it could also be 'category': "
    again = "lora-s2s init my.jsonl --yes --set data.source_column=text"
    assert f"{took}{again} --set data.target_column=category\n" in result.stderr
    assert "label (the answer to learn: a usual name, as 'category' is)" in result.stderr
    assert result.stderr.count("could also be") == 1
    unused = "text that is not used: 'input', 'title'; to add it: "
    join = "--set 'data.template={input} {title} {text}'\n"
    assert f"{unused}{again} {join}" in result.stderr
    shutil.copy(here / "my.jsonl", here / "two.jsonl")
    dry = "train two.jsonl --set model.name=demo --set data.source_column=text --dry-run"
    trained = invoke(*dry.split()).stderr
    assert trained.count(f"{unused}lora-s2s {dry} {join}") == 1
    assert f"{took}lora-s2s {dry} --set data.target_column=category\n" in trained
    category = ("--set", "data.target_column=category")
    other = invoke("init", "my.jsonl", "--yes", "--overwrite", *category)
    took_text = "took 'text' as the source; it could also be 'input': "
    again = "lora-s2s init my.jsonl --yes --set data.target_column=category"  # --overwrite: once
    assert f"{took_text}{again} --set data.source_column=input\n" in other.stderr
    assert "as the target" not in other.stderr
    lines = [
        json.dumps({"source": f"by {'web' if n % 2 else 'email'}", "text": row[0], "title": row[5]})
        for n, row in enumerate(rows)
    ]
    (here / "from.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert "could also be" not in invoke("init", "from.jsonl", "--yes").stderr
    answers = {"Source": "text > category", "Memory": "8GB", "Instruction": "", "Base": "demo"}
    asked: list[tuple[str, str]] = []

    def ask(question: str, default: str) -> str:
        asked.append((question.split()[0], default))
        return answers[question.split()[0]]

    written = write_recipe(look(Wishes(["my.jsonl"], ask=ask, overwrite=True)))
    assert asked[0] == ("Source", "text > label")
    assert [question for question, _ in asked] == [*answers]
    assert chosen(written, "data.target_column") == ("category", "your answer")
    answers["Source"] = "category"
    capsys.readouterr()
    with pytest.raises(UsageError, match="expected columns with >"):
        look(Wishes(["my.jsonl"], ask=ask))
    assert "expected columns with >" in (shown := capsys.readouterr().err)
    assert f"{took.removeprefix('warning: ')}--set" in shown


@pytest.mark.parametrize("columns", ["text,label", "ticket,kind"])
def test_a_clear_encoding_is_decided_on_and_another_reported_before_anything_is_asked(
    here: Path, invoke: Invoke, columns: str
) -> None:
    """Whether or not the columns can be guessed, and however few rows show it."""
    rows = [f"{sentence(n)} {'Größe' if n == 50 else ''},{_NUMBERS[n % 3]},x" for n in range(120)]
    text = "\n".join([f"{columns},note", *rows])
    (here / "my.csv").write_bytes(text.encode("cp1252"))
    sets = dict(zip(("data.source_column", "data.target_column"), columns.split(","), strict=True))
    written = write_recipe(look(Wishes(["my.csv"], sets)))
    assert chosen(written, "data.encoding") == (
        "cp1252",
        "the file is not UTF-8: byte 0xF6 in line 52 reads 'Größe' in cp1252",
    )
    assert load_recipe("my.yaml").data.encoding == "cp1252"

    def ask(question: str, default: str) -> str:
        raise AssertionError(question)

    (here / "my.csv").write_bytes(text.replace("Größe", "Příliš žluté").encode("cp1250"))
    told = {"data.encoding": "utf-8", "data.max_rejected": 0}
    for asks, said in ((ask, {}), (None, {}), (None, told)):
        if said:
            (here / "my.csv").write_bytes(text.encode("cp1252"))
        with pytest.raises(
            DataError, match=r"my\.csv is not UTF-8: 1 of 120 rows cannot"
        ) as caught:
            write_recipe(look(Wishes(["my.csv"], {"data.max_rejected": 0, **said}, ask=asks)))
        assert "--set data.encoding=cp1252" in str(caught.value.hint)


def test_what_cannot_be_guessed_ends_with_the_whole_command(here: Path, invoke: Invoke) -> None:
    rows = [f"T-{n};{sentence(n % 7)};{sentence(n)};{_NUMBERS[n % 3]}" for n in range(60)]
    text = "\n".join(["Nr;Betreff;Größe;Abteilung", *rows])
    (here / "my.csv").write_bytes(text.encode("cp1252"))
    result = invoke("init", "my.csv", "--yes", code=3)
    command = (
        "lora-s2s init my.csv --yes --set data.target_column=Abteilung "
        "--set 'data.template={Betreff} {Größe}'"
    )
    why = "'Abteilung' may be the target, as its values recur"
    assert f"hint: {why}: {command}; the template joins columns" in result.stderr
    (here / "my.csv").write_text(text.replace("Nr;Betreff", "Betreff;Nr"), "utf-8")
    rows = [f"{sentence(n)};{sentence(n + 60)};{sentence(n + 120)}" for n in range(60)]
    (here / "my.csv").write_text("\n".join(["eins;zwei;drei", *rows]), "utf-8")
    result = invoke("init", "my.csv", "--yes", code=3)
    assert (
        "hint: name both: lora-s2s init my.csv --yes --set data.source_column=eins "
        "--set data.target_column=zwei; or join: --set 'data.template={eins} {drei}'"
    ) in result.stderr


@pytest.mark.parametrize("reply", ["intent {}", "See step {} of the guide for your order."])
def test_replies_of_a_dialogue_are_labels_only_where_they_are_of_few_words(
    here: Path, reply: str
) -> None:
    rows = []
    for n in range(90):
        said = [("user", sentence(n)), ("assistant", reply.format(n % 15))]
        rows.append({"messages": [{"role": who, "content": text} for who, text in said]})
    (here / "my.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    written = lora_s2s.init("my.jsonl", {"model.name": "demo"}, progress=False)
    metrics, reason = chosen(written, "evaluation.metrics")
    closed = reply == "intent {}"
    assert metrics == (["exact_match", "macro_f1"] if closed else ["rougeL", "chrf", "exact_match"])
    if closed:
        reason = chosen(written, "evaluation.constraint")[1]
    # The other is one command away, and goes with the rest.
    other = "null" if closed else "labels"
    assert reason.endswith(f": --set evaluation.constraint={other}")
    sets = {"model.name": "demo", "evaluation.constraint": None if closed else "labels"}
    recipe = lora_s2s.init("my.jsonl", sets, progress=False).recipe
    assert recipe.evaluation.constraint == (None if closed else "labels")


def test_without_the_hub_only_bases_that_are_here_are_taken(
    here: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_csv(here / "my.csv")
    refused = invoke("train", "my.csv", "--set", "lora.r=4", code=5).stderr
    assert "error: no Flan-T5 base (for texts in English) is on this machine, and" in refused
    command = "lora-s2s train my.csv --set lora.r=4 --set model.name=demo"
    assert f"hint: the small one in the package: {command}; or a base's folder: --set " in refused
    assert "model.name: " not in refused  # before anything is decided
    assert not (here / "my.yaml").exists()
    large = "google/flan-t5-large"
    monkeypatch.setattr("lora_s2s.recipe.bases.is_local", lambda name, _: name == large)
    assert chosen(lora_s2s.init("my.csv", progress=False), "model.name")[0] == large


def test_files_beside_it_become_the_other_splits(here: Path) -> None:
    folder = here / "task"
    folder.mkdir()
    for name, rows in (("train", 60), ("dev", 20), ("test_labels", 20)):
        write_csv(folder / f"{name}.csv", rows)
    (folder / "test_labels.csv").write_text("text,label\nb,c\nd,e\n", encoding="utf-8")
    written = lora_s2s.init("task/train.csv", progress=False)
    recipe = load_recipe(str(written.path))
    assert written.path == Path("task.yaml")
    assert (recipe.data.validation, recipe.data.test) == ("task/dev.csv", None)
    (folder / "test_labels.csv").unlink()
    assert load_recipe(str(lora_s2s.init("task", out="all.yaml", progress=False).path)).data == (
        recipe.data.model_copy(update={"train": ["task/train.csv"], "validation": ["task/dev.csv"]})
    )


def test_two_files_of_lines_are_a_translation(here: Path) -> None:
    for language, words in (("en", _WORDS), ("de", _GERMAN)):
        lines = [sentence(number, words) for number in range(40)]
        (here / f"talks.{language}").write_text("\n".join(lines), encoding="utf-8")
    written = lora_s2s.init(["talks.en", "talks.de"], gpu_memory="8GB", progress=False)
    assert chosen(written, "data.target_language")[0] == "deu_Latn"
    assert chosen(written, "evaluation.metrics")[0] == ["chrf", "bleu"]


def test_too_few_rows_are_refused_with_what_trains_on_them(here: Path) -> None:
    write_csv(here / "my.csv", 4)
    with pytest.raises(DataError, match=r"my\.csv has 4 usable rows, too few") as caught:
        lora_s2s.init("my.csv", progress=False)
    assert "train --data" in str(caught.value.hint)


def test_rows_with_empty_cells_are_allowed_for_or_refused_before_a_recipe_is_written(
    here: Path, invoke: Invoke
) -> None:
    write_csv(here / "my.csv", 97)
    with (here / "my.csv").open("a", encoding="utf-8") as stream:
        stream.write(",x\n" * 3)
    written = lora_s2s.init("my.csv", {"model.name": "demo"}, progress=False)
    share, reason = chosen(written, "data.max_rejected")
    assert share == 0.03
    assert reason == "3 of 100 rows lack a cell and are dropped; the default allows 0.01"
    assert "max_steps" not in chosen(written, "training.epochs")[1]
    assert "Dry run" in invoke("train", "my.yaml", "--dry-run").stderr
    (here / "my.yaml").unlink()
    with (here / "my.csv").open("a", encoding="utf-8") as stream:
        stream.write(",x\n" * 4)
    refused = invoke("train", "my.csv", "--set", "model.name=demo", code=3)
    assert "error: 7 of 104 rows cannot be used" in refused.stderr
    assert "or allow more: --set data.max_rejected=0.07\n" in refused.stderr
    assert not (here / "my.yaml").exists()


def test_a_name_that_is_mistyped_or_unquoted(here: Path, invoke: Invoke) -> None:
    write_csv(here / "my tickets.csv")
    for folder in ("texts", "texts-run"):
        (here / folder).mkdir()
        write_csv(here / folder / "a b.csv")
    here.joinpath("texts-run", "recipe.yaml").touch()
    files = ("own.yaml", "log.csv", "log.yaml", "log.parquet.yaml", "plan.xlsx")
    for file in files:
        (here / file).write_text("", encoding="utf-8")
    for name, message in {
        "my tikets.csv": "file: 'my tikets.csv' (did you mean 'my tickets.csv'?)",
        "./my tikets.csv": "file: './my tikets.csv' (did you mean './my tickets.csv'?)",
        "./nope/a": "file: './nope/a'",
        "nope.csv": "file: 'nope.csv' (did you mean 'log.csv'?)",
        "log.cvs": "file: 'log.cvs' (did you mean 'log.csv'?)",
        "log.parquet": "file: 'log.parquet'\n",
        "log.ymal": "file: 'log.ymal' (did you mean 'log.yaml'?)",
        "owm.yaml": "recipe: 'owm.yaml' (did you mean 'own.yaml'?)",
        "flan-t5-bse": "recipe: 'flan-t5-bse' (did you mean 'flan-t5-base'?)",
        "my tickets": "recipe: 'my tickets' (did you mean 'my tickets.csv'?)",
        "own": "recipe: 'own' (did you mean 'own.yaml'?)",
        "Plan.csv": "file: 'Plan.csv'\nhint: a spreadsheet is not read: save plan.xlsx as CSV "
        "(UTF-8), plan.csv\n",
    }.items():
        assert f"error: no such {message}" in invoke("train", name, code=2).stderr
    named = ("train", "--data", "./plan.csv", "--model", "demo")
    assert "hint: a spreadsheet is not read" in invoke(*named, code=3).stderr
    for words, hint in {
        ("texts",): "write a recipe for its files: lora-s2s init --data texts",
        ("texts-run/",): "give its recipe: texts-run/recipe.yaml",
    }.items():
        assert f"\nhint: {hint}\n" in invoke("train", *words, code=2).stderr
    refused = invoke("train", "my tickets.csv", "--set", "model.name=deno", code=5).stderr
    assert "error: the model 'deno' (did you mean 'demo'?) is not on this machine, and" in refused
    assert not list(here.glob("my*.yaml"))
    refused = invoke("train", "my", "tickets.csv", "--set", "lora.r=2", code=2)
    assert "hint: quote a name with a space: 'my tickets.csv'\n" in refused.stderr
    assert "hint: lora-s2s train --help" in invoke("train", "my", "x.csv", code=2).stderr
    # What a shell makes of a pattern.
    files = [str(here / f"{name} 1.csv") for name in "abc"]
    for file in files:
        shutil.copy("my tickets.csv", file)
    data = shlex.join(part for file in files for part in ("--data", file))
    for words, command in {
        (*files, "--set", "lora.r=2"): f"init {data} --set lora.r=2",
        ("--model", "demo", "--data", *files): f"train {data} --model demo",
    }.items():
        assert f"\nhint: lora-s2s {command}\n" in invoke("train", *words, code=2).stderr
    for words in (["10"], ["=", "10"], ["=10"]):
        apart = invoke("train", "my tickets.csv", "--set", "training.max_steps", *words, code=2)
        assert "hint: a setting is one word: --set training.max_steps=10\n" in apart.stderr
    option = invoke("train", "my tickets.csv", "--model.name=demo", code=2).stderr
    assert "hint: lora-s2s train 'my tickets.csv' --set model.name=demo\n" in option


def test_train_on_a_file_alone_writes_its_recipe_first(
    here: Path, invoke: Invoke, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "my.csv")
    with (here / "my.csv").open("a", encoding="utf-8") as stream:
        stream.writelines((here / "my.csv").read_text(encoding="utf-8").splitlines(True)[1:3])
    monkeypatch.setattr("lora_s2s.console._SECONDS_OF_SILENCE", 0)
    sets = (f"model.name={tiny_model}", "training.max_steps=2", "training.batch_size=4")
    words = [part for word in sets for part in ("--set", word)]
    result = invoke("train", "my.csv", *words, "--json")
    assert json.loads(result.stdout)["steps"] == 2
    assert "\ntry: " not in result.stderr  # a trial that is cut short is no fault
    before, _, after = result.stderr.partition("first training step after ")
    assert "\n2 steps; the first also checks the forward pass\n" in before
    assert "\nlearned: 'answer' from 'question'; why, and what else was chosen: my.yaml\n" in after
    whole = f"lora-s2s train my.csv {' '.join([*words[:2], *words[4:]])} --json --overwrite --set "
    whole = f"\nfor the whole run, without training.max_steps=2: {whole}training.max_steps=null\n"
    assert whole in after
    assert after
    deciding, training = result.stderr.split("wrote my.yaml")
    # Each stage says once what was dropped, and its progress what it is for.
    read = "42 examples read, 2 dropped: 2 × duplicate; 40 kept: 33 train, 7 validation"
    assert deciding.count(f"({read})") == result.stderr.count("(42 examples") == 1
    assert f"data: {read} (prepared/my; what was dropped: prepared/my/rejected.jsonl)\n" in training
    assert deciding.count("tokenise 100%") == deciding.count("lengths: tokenise 100%") == 1
    assert ("tokenise 100%" in training, "lengths: " in training) == (True, False)
    # As in the file, a section after the other.
    assert deciding.index("training.batch_size: 4") < deciding.index("evaluation.metrics")
    # Files that rules are from are named in the recipe, not among messages.
    assert not re.search(r"benchmarks/|\.py\b", result.stderr)
    written = " ".join((here / "my.yaml").read_text(encoding="utf-8").split())
    assert "defaults.py, from benchmarks/results/defaults-cpu.json learning_rate" in written
    assert "evaluation.metrics: [exact_match, token_f1, chrf] (each source has" in result.stderr
    recipe = load_recipe("my.yaml")
    assert (recipe.training.max_steps, recipe.model.name) == (2, str(tiny_model))
    again = lora_s2s.train(lora_s2s.init("my.csv", {**dict(_pairs(sets)), "output.name": "two"}))
    assert again.adapter is not None
    assert again.adapter.name == "two"
    # A run that the user names has a recipe of its own, with what was given for the first.
    first = (here / "my.yaml").read_text(encoding="utf-8")
    named = ("train", "my.csv", "--set", "output.name=it", "--set", "training.max_steps=1")
    assert "and what else was chosen: it.yaml\n" in invoke(*named).stderr
    assert load_recipe("it.yaml").training.batch_size == 4
    assert (here / "my.yaml").read_text(encoding="utf-8") == first
    assert "my.yaml was not edited" in invoke("train", "my.csv", "--dry-run").stderr
    (here / "as.json").write_text('{"model": {"name": "demo"}, "data": {"train": "my.csv"}}')
    assert "Dry run: as" in invoke("train", "as.json", "--dry-run").stderr


def test_rows_are_counted_as_prepare_counts_them(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(here / "my.csv", 90)
    with (here / "my.csv").open("a", encoding="utf-8") as stream:
        stream.writelines((here / "my.csv").read_text(encoding="utf-8").splitlines(True)[1:31])
        stream.write(",x\n" * 3)
    written = lora_s2s.init("my.csv", {"model.name": "demo"}, progress=False)
    prepared = lora_s2s.prepare(written.recipe, progress=False)
    limit = prepared.report["limits"]["max_source_tokens"]["tokens"]
    assert chosen(written, "data.max_source_tokens")[1].startswith(f"auto: {limit}; half have")
    splits = prepared.splits
    train, held_out = splits["train"], splits["validation"]
    sizes = "123 examples read, 33 dropped: 30 × duplicate, 3 × empty source; 90 kept: "
    sizes += f"{train} train, {held_out} validation"  # all rows of the file
    assert chosen(written, "data.train")[1] == sizes
    assert chosen(written, "data.validation_fraction")[1].startswith(f"{held_out} of 90 examples")
    assert f" × {train} training examples" in chosen(written, "training.epochs")[1]
    assert f"all {held_out}: answering" in chosen(written, "evaluation.limit")[1]
    monkeypatch.setattr("lora_s2s.pipeline.starter_base._WHOLE", 100)
    estimated = lora_s2s.init("my.csv", {"model.name": "demo"}, progress=False)
    assert chosen(estimated, "data.validation_fraction")[1].startswith("about 24 of 120 examples")
    assert "auto: about " in chosen(estimated, "training.epochs")[1]


def test_a_base_that_is_here_says_itself_which_characters_it_lacks(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("source", "target"), *((f"row {number}", f"{{í {number}") for number in range(20))]
    with (here / "my.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    write_recipe(look(Wishes(["my.csv"], {"model.name": "demo"})))
    assert "the base's vocabulary lacks {; its unused" in capsys.readouterr().err
    write_recipe(look(Wishes(["my.csv"], {"model.name": "google/flan-t5-base"})))
    assert "the base's vocabulary lacks { í; its unused" in capsys.readouterr().err


def test_train_on_a_file_replaces_only_what_it_wrote_itself(here: Path, invoke: Invoke) -> None:
    write_csv(here / "my.csv")
    path, dry = here / "my.yaml", ("train", "my.csv", "--set", "model.name=demo", "--dry-run")
    assert "my.yaml is not written" in invoke(*dry).stderr
    assert [file.name for file in here.iterdir()] == ["my.csv"]
    (here / "adapters" / "my.running").mkdir(parents=True)
    refused = invoke(*dry[:-1], code=2).stderr
    command = "lora-s2s train adapters/my.running/recipe.yaml --resume"
    assert f"holds an unfinished run\nhint: continue: {command}; or start" in refused
    assert "model.name: demo" not in refused  # before anything is decided
    began = {"name": "demo"}, {"train": "my.csv", "target_column": "question"}
    running = dict(zip(("model", "data"), began, strict=True))
    (here / "adapters/my.running/recipe.yaml").write_text(json.dumps(running), encoding="utf-8")
    wrong = invoke(*dry[:-1], "--set", "data.target_column=Target", code=3).stderr
    assert "unfinished" not in wrong  # a column that is not there comes first
    other = ("--set", "data.target_column=answer")
    refused = invoke(*dry[:-1], *other, code=2).stderr
    assert "an unfinished run with data.target_column: question; now answer\n" in refused
    assert "hint: start again: lora-s2s train my.csv" in refused
    assert not path.exists()
    shutil.rmtree(here / "adapters" / "my.running")
    gave = (
        "model.name=demo training.max_steps=3 evaluation.metrics=[rougeL] data.template=~ "
        "output.name=other".split()
    )
    commented = starter_recipe(look(Wishes(["my.csv"], gave)), command="train").text
    path.write_text(commented, encoding="utf-8")
    wrong = invoke("train", "my.csv", "--dry-run", "--set", "model.nam=demo", code=2).stderr
    assert "unknown key 'model.nam' (did you mean 'model.name'?)" in wrong
    assert "not edited" not in wrong  # what is kept does not matter then
    # What the user gave stays where nobody edits the file, but for what is given now.
    result = invoke("train", "my.csv", "--dry-run", "--set", "training.epochs=2", "--json")
    kept = json.loads(result.stdout)["recipe"]
    assert (kept["model"]["name"], kept["evaluation"]["metrics"]) == ("demo", ["rougeL"])
    assert (kept["training"]["epochs"], kept["training"]["max_steps"]) == (2, None)
    assert kept["output"]["name"] == "my"
    assert (
        "my.yaml was not edited: decided anew, but for what you gave before (model.name=demo, data."
        "template=null, evaluation.metrics=[rougeL]; to drop it: lora-s2s init my.csv --out "
        "my.yaml --overwrite)\n"
    ) in result.stderr
    assert "  model.name: demo (given by you)\n" in result.stderr
    assert path.read_text(encoding="utf-8") == commented
    head, _, rest = commented.replace("lora:", "lora:\n  of_another_version: 1").split("\n", 2)
    seal = hashlib.sha256(f"{head}\n{rest}".encode()).hexdigest()[:8]
    path.write_text(f"{head}\n# lora-s2s 0.0.1 train {seal}\n{rest}", encoding="utf-8")
    assert "dry run: my.yaml is not written" in invoke(*dry).stderr
    for made in (commented.replace("r: 16", "r: 4"), None):  # edited, or written by init
        if made is None:
            invoke("init", "my.csv", "--set", "lora.r=4", "--set", "model.name=demo", "--overwrite")
        else:
            path.write_text(made, encoding="utf-8")
        used = invoke(*dry, "--json")
        assert json.loads(used.stdout)["recipe"]["lora"]["r"] == 4
        why, anew = "init wrote it", ""
        if made:  # what was given would be lost with the edit
            why, anew = (
                "edited by hand",
                " --overwrite --set model.name=demo --set data.template=null",
            )
            anew += " --set training.max_steps=3 --set 'evaluation.metrics=[rougeL]'"
        line = f"my.yaml is used as it is ({why}); to decide anew: lora-s2s init my.csv{anew}\n"
        assert line in used.stderr
        named = ("--set", "output.name=it")  # which has no recipe of its own
        assert line[:21] in invoke("train", str(here / "my.csv"), *dry[2:], *named).stderr
    (here / "other").mkdir()
    write_csv(here / "other" / "my.csv")
    for made in (path.read_text(encoding="utf-8"), commented):  # nor one that train wrote
        path.write_text(made, encoding="utf-8")
        refused = invoke("train", "other/my.csv", code=2).stderr
        expected = "my.yaml is a recipe for other data: my.csv\nhint: write one of another name"
        assert expected in refused
        assert "replace it: lora-s2s init other/my.csv --out my.yaml --overwrite\n" in refused
        if made == commented:  # also where it does not go with what is given now
            unfit = ("--set", "training.packing=true", "--set", "training.batch_size=8")
            assert expected in invoke("train", "other/my.csv", *unfit, code=2).stderr
        assert path.read_text(encoding="utf-8") == made
    path.unlink()
    path.mkdir()
    for words in (["train", "my.csv"], ["init", "my.csv", "--yes"]):
        choose = "choose another: lora-s2s init FILE --out NAME.yaml"
        refused = invoke(*words, code=2).stderr
        assert f"my.yaml is a folder, expected a recipe\nhint: {choose}\n" in refused
    refused = invoke("plan", "my.yaml", code=2).stderr
    assert "error: a folder, not a recipe: 'my.yaml'\nhint: give a YAML file\n" in refused


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        # What does not go with what is given now is dropped.
        ("training.batch_size=8", "training.packing=true", {"training.batch_size": None}),
        ("data.template=Say: {question}", "data.source_column=question", {"data.template": None}),
        ("data.validation=b.csv", "data.validation_fraction=0.3", {"data.validation": None}),
        (
            "data.train=['my data/my.csv', b.csv]",
            "lora.r=8",
            {"data.train": ["my data/my.csv", "b.csv"]},
        ),
        ("data.train=b.csv", "data.train=b.csv", {"data.train": "b.csv"}),
    ],
)
def test_what_was_given_before_goes_with_what_is_given_now(
    here: Path, invoke: Invoke, before: str, now: str, kept: Mapping[str, object]
) -> None:
    (here / "my data").mkdir()
    file = "my data/my.csv"  # no name of a run
    write_csv(here / file)
    other = (here / file).read_text(encoding="utf-8").replace("house", "barn")
    (here / "b.csv").write_text(other, encoding="utf-8")
    starter = starter_recipe(look(Wishes([file], ["model.name=demo", before])), command="train")
    (here / "my.yaml").write_text(starter.text, encoding="utf-8")
    result = invoke("train", file, "--set", now, "--dry-run", "--json")
    recipe = json.loads(result.stdout)["recipe"]
    assert recipe["model"]["name"] == "demo"
    for key, value in kept.items():
        section, name = key.split(".")
        assert recipe[section][name] == value
    dropped = "what does not go with it is dropped: training.batch_size=8\n"
    assert (dropped in result.stderr) == before.endswith("size=8")


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    return (tuple(word.split("=", 1)) for word in words)  # type: ignore[misc]
