"""Recipes: every error with its line, values by their field's type, layers, and a resolved recipe
that repeats.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lora_s2s.errors import RecipeError, UsageError
from lora_s2s.recipe.layers import mapping_layer
from lora_s2s.recipe.load import (
    load_recipe,
    recipe_from_settings,
    recipe_to_yaml,
    recorded_recipe,
    with_arguments,
)
from lora_s2s.recipe.meanings import KEYS, OMITTED, THEIR_SECTIONS
from lora_s2s.recipe.schema import SECTIONS, Recipe, TrainingSection

LEAST = "model:\n  name: demo\ndata:\n  train: t.csv\n"


def write(folder: Path, text: str, name: str = "r.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems_of(source: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(source, overrides)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value.problems


def test_the_least_recipe_takes_every_default_and_its_files_name(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, LEAST))
    assert recipe.output.name == "r"
    assert (recipe.lora.r, recipe.training.epochs, recipe.training.tokens_per_batch) == (
        16,
        "auto",
        "auto",
    )


def test_all_problems_come_at_once_each_with_its_line_and_nearest_key(tmp_path: Path) -> None:
    text = """model:
  name: demo
  dtyp: float32
data:
  train: t.csv
  max_source_tokens: many
training:
  r: 8
  learning_rate: -1
lorra:
  r: 1
"""
    path = write(tmp_path, text)
    found = "\n".join(problems_of(path, "lora.alhpa=3"))
    for line in (
        f"{path}:3: unknown key 'model.dtyp' (did you mean 'model.dtype'?)",
        f"{path}:6: data.max_source_tokens: expected a whole number or auto, got 'many'",
        f"{path}:8: unknown key 'training.r' (did you mean 'lora.r'?)",
        f"{path}:9: training.learning_rate: should be auto, or greater than 0 and at most 10; got "
        "-1.0",
        f"{path}:10: unknown section 'lorra' (did you mean 'lora'?)",
        "--set: unknown key 'lora.alhpa' (did you mean 'lora.alpha'?)",
    ):
        assert line in found
    assert found.count("\n") == 5


def test_keys_of_flat_files_lead_to_ours(tmp_path: Path) -> None:
    """As axolotl writes them: without sections, or with sections of other names."""
    text = "base_model: x\nload_in_4bit: true\nlora_alpha: 8\npeft_config:\n  r: 8\nbias: none\n"
    path = write(tmp_path, text)
    found = problems_of(path)
    assert found[:5] == [
        f"{path}:1: expected a section, got the key 'base_model' (did you mean 'model.name'?)",
        f"{path}:2: expected a section, got the key 'load_in_4bit' "
        "(did you mean 'model.quantization=nf4'?)",
        f"{path}:3: expected a section, got the key 'lora_alpha' (did you mean 'lora.alpha'?)",
        f"{path}:4: unknown section 'peft_config' (did you mean 'lora'?)",
        f"{path}:6: expected a section, got the key 'bias' (omit it: bias terms are not trained)",
    ]


def test_a_switch_that_is_off_suggests_no_value(tmp_path: Path) -> None:
    text = "load_in_4bit: false\ntraining:\n  bf16: off\n"
    meant = ["model.quantization", "model.dtype"]
    for problems in (
        problems_of(write(tmp_path, text)),
        mapping_layer({"load_in_4bit": False, "training": {"bf16": False}}, "recipe").problems,
    ):
        hints = [f"(omit it, or set '{key}')" for key in meant]
        assert [problem[problem.index("(omit") :] for problem in problems[:2]] == hints


def test_arguments_of_a_call_are_named_as_they_were_given(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, LEAST))
    changed = with_arguments(recipe, "evaluation", {"num_beams": 3, "max_new_tokens": None})
    assert changed.evaluation.num_beams == 3
    assert changed.evaluation.max_new_tokens == recipe.evaluation.max_new_tokens
    with pytest.raises(UsageError) as caught:
        with_arguments(recipe, "evaluation", {"num_beams": 0, "batch_tokens": "x"})
    assert caught.value.message == (
        "batch_tokens: expected a whole number, got 'x'; "
        "num_beams: should be greater than or equal to 1; got 0"
    )


@pytest.mark.parametrize("meant", sorted(set(KEYS.values())))
def test_what_is_suggested_is_a_key_of_a_recipe(meant: str, tmp_path: Path) -> None:
    key, _, value = meant.partition("=")
    section, name = key.split(".")
    assert name in SECTIONS[section].model_fields
    if value:
        assert problems_of(write(tmp_path, "lora:\n  r: 0\n"), meant) == problems_of(
            write(tmp_path, "lora:\n  r: 0\n")
        )


def test_a_name_has_one_meaning_and_none_of_ours_another() -> None:
    ours = {name for section in SECTIONS.values() for name in section.model_fields}
    assert not ours & (KEYS.keys() | OMITTED.keys())
    assert not KEYS.keys() & OMITTED.keys()
    assert set(THEIR_SECTIONS.values()) <= set(SECTIONS)


def test_missing_required_keys_are_named(tmp_path: Path) -> None:
    found = problems_of(write(tmp_path, "lora:\n  r: 4\n"))
    assert any("model.name is required" in problem for problem in found)
    assert any("data.train is required" in problem for problem in found)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("training.learning_rate", "1e-4", 1e-4),
        ("training.learning_rate", "5E-4", 5e-4),
        ("training.learning_rate", ".5", 0.5),
        ("training.save_every", "1_000", 1000),
        ("training.gradient_checkpointing", "yes", True),
        ("training.gradient_checkpointing", "off", False),
        ("training.packing", "no", False),
        ("training.packing", "False", False),
        ("training.packing", "on", True),
        ("data.source_column", "no", "no"),
        ("data.source_column", "012", "012"),
        ("data.source_column", "2024-01-02", "2024-01-02"),
        ("data.source_column", "1e-4", "1e-4"),
        ("data.source_column", "null", None),
        ("data.source_column", "", None),
        ("data.source_language", "de_DE", "de_DE"),
        ("data.target_language", "null", None),
        ("data.lossless_text", "off", "off"),
        ("data.validation", "[a.csv, b.csv]", ["a.csv", "b.csv"]),
        ("data.validation", "a,b.csv", "a,b.csv"),
        ("evaluation.metrics", "bleu", ["bleu"]),
        ("evaluation.metrics", "auto", ["auto"]),
        ("evaluation.metrics", "[bleu, rougeL]", ["bleu", "rougeL"]),
        ("lora.target_modules", "[q, no, 012]", ["q", "no", "012"]),
        ("evaluation.limit", "~", None),
        ("data.max_source_tokens", "auto", "auto"),
        ("data.max_target_tokens", "1_024", 1024),
        ("evaluation.max_new_tokens", "auto", "auto"),
    ],
)
def test_the_field_decides_the_type_in_yaml_and_on_the_command_line(
    tmp_path: Path, key: str, text: str, value: object
) -> None:
    section, name = key.split(".")
    extra = "" if section == "data" else f"{section}:\n"
    written = load_recipe(write(tmp_path, f"{LEAST}{extra}  {name}: {text}\n"))
    said = load_recipe(write(tmp_path, LEAST), [f"{key}={text}"])
    for recipe in (written, said):
        assert getattr(getattr(recipe, section), name) == value


def test_quoted_null_is_text(tmp_path: Path) -> None:
    assert (
        load_recipe(write(tmp_path, LEAST + "  source_column: 'null'\n")).data.source_column
        == "null"
    )


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("lora.r=012", "expected a whole number, got '012'"),
        ("lora.r=1.5", "expected a whole number"),
        ("lora.r=1e9", "expected a whole number"),
        ("lora.r=1000000000", "less than or equal to 1024"),
        ("training.learning_rate=nan", "expected a number"),
        ("training.learning_rate=inf", "expected a number"),
        ("training.gradient_checkpointing=maybe", "expected true or false"),
        ("training.on_nonfinite=restore", "restore was removed: write stop, and continue"),
        ("training.schedule=cosin", "did you mean 'cosine'"),
        ("training.seed=null", "expected a whole number, got nothing"),
        ("lora.r=[1, 2]", "got a list"),
        ("evaluation.metrics=[bleu, {a: b}]", "expected one of"),
        ("evaluation.metrics=[auto, bleu]", "auto stands alone"),
        ("output.name=../x", "output.name"),
        ("output.name=.hidden", "output.name"),
        ("output.name=Nul.v2", "output.name: expected a name that Windows can store too"),
        ("output.name=mine.", "no dot at the end; got 'mine.'"),
        (
            "model.quantization=nf3",
            "expected one of none, nf4, int8; got 'nf3' (did you mean 'nf4'?)",
        ),
        ("lora.rank_pattern=wo:8", "expected NAME=RANK such as cross-attention=32, got 'wo:8'"),
        ("data.max_source_tokens=3", "should be auto, or between 4 and 65,536; got 3"),
        ("data.max_target_tokens=1e6", "expected a whole number or auto, got '1e6'"),
        ("evaluation.max_new_tokens=Auto", "expected a whole number or auto, got 'Auto'"),
        ("data.lossless_text=maybe", "expected one of auto, on, off"),
        ("lora.train_tokens=house", "expected one of auto; got 'house', or a list such as [house]"),
        (
            "lora.method=eva",
            "eva is refused: its initialisation fails on encoder-decoders; expected one of lora, ",
        ),
        ("lora.method=doro", "(did you mean 'dora'?)"),
        ("training.packing=maybe", "expected true or false"),
        (f"lora.r={'[' * 5000}{']' * 5000}", "expected a whole number"),
        ("lora.train_tokens=some", "lora.train_tokens"),
        ("learning_rate=1", "=value (did you mean 'training.learning_rate'?)"),
        ("lr=1e-4", "=value (did you mean 'training.learning_rate'?)"),
        ("nme=demo", "=value (did you mean 'model.name'?)"),
        ("model=demo", "=value (did you mean 'model.name'?)"),
        ("lora=8", "--set lora=8: expected section.key=value"),
        ("lora.r", "expected section.key=value"),
        ("peft.r=8", "unknown section 'peft' (did you mean 'lora.r'?)"),
        ("modl.nme=demo", "unknown section 'modl' (did you mean 'model.name'?)"),
        ("outptu.name=demo", "unknown section 'outptu' (did you mean 'output.name'?)"),
        ("modl.xyz=demo", "unknown section 'modl' (did you mean 'model'?)"),
        ("lora.rank=8", "unknown key 'lora.rank' (did you mean 'lora.r'?)"),
        ("training.load_in_4bit=true", "(did you mean 'model.quantization=nf4'?)"),
        ("training.load_in_4bit=false", "(omit it, or set 'model.quantization')"),
        ("load_in_4bit=False", "(omit it, or set 'model.quantization')"),
        ("lora.use_dora=no", "(omit it, or set 'lora.method')"),
        ("training.fp16=true", "(did you mean 'model.dtype=float16'?)"),
        ("training.report_to=none", "(did you mean 'training.trackers'?)"),
        ("training.bf16=true", "(did you mean 'model.dtype=bfloat16'?)"),
        ("training.num_train_epochs=3", "(did you mean 'training.epochs'?)"),
        ("training.per-device-train-batch-size=8", "(did you mean 'training.batch_size'?)"),
        ("training.gradient_accumulation_steps=8", "'training.gradient_accumulation'?)"),
        ("training.lr_scheduler_type=cosine", "(did you mean 'training.schedule'?)"),
        ("training.warmup_ratio=0.1", "(did you mean 'training.warmup'?)"),
        ("training.eval_steps=9", "(did you mean 'training.evaluate_every'?)"),
        ("model.max_seq_length=9", "(did you mean 'data.max_source_tokens'?)"),
        ("data.input_column=q", "(did you mean 'data.source_column'?)"),
        ("lora.task_type=SEQ_2_SEQ_LM", "(omit it: the task is always text to text)"),
        ("trainin.seed=1", "unknown section 'trainin' (did you mean 'training.seed'?)"),
    ],
)
def test_bad_values_are_refused_in_words(tmp_path: Path, override: str, part: str) -> None:
    assert part in "\n".join(problems_of(write(tmp_path, LEAST), override))


def test_alternatives_exclude_each_other_in_one_file(tmp_path: Path) -> None:
    both = write(tmp_path, LEAST + "training:\n  epochs: 2\n  max_steps: 5\n")
    assert "epochs and max_steps exclude each other" in problems_of(both)[0]
    both = write(tmp_path, LEAST + "training:\n  batch_size: 2\n  tokens_per_batch: 512\n")
    assert f"{tmp_path}/r.yaml:5: training: batch_size and tokens_per_batch" in problems_of(both)[0]
    both = write(tmp_path, LEAST + "training:\n  batch_size: 2\n  packing: yes\n")
    assert (
        f"{tmp_path}/r.yaml:5: training: batch_size and packing exclude each other"
        in problems_of(both)[0]
    )
    neither = write(tmp_path, LEAST + "training:\n  batch_size: 2\n  packing: no\n")
    assert load_recipe(neither).training.tokens_per_batch is None


def test_an_alternative_said_later_takes_back_the_earlier(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST + "training:\n  epochs: 2\n  tokens_per_batch: 512\n")
    later = load_recipe(path, ["training.max_steps=7", "training.batch_size=4"]).training
    assert (later.max_steps, later.batch_size, later.tokens_per_batch) == (7, 4, None)
    assert load_recipe(path, ["training.max_steps=null"]).training.epochs == 2


def test_extends_merges_key_by_key_and_says_where_an_inherited_error_is(tmp_path: Path) -> None:
    write(tmp_path, LEAST + "lora:\n  r: 4\n  alpha: 8\n", "parent.yaml")
    child = write(tmp_path, "extends: parent.yaml\nlora:\n  r: 2\n", "child.yaml")
    recipe = load_recipe(child, ["lora.dropout=0.1"])
    assert (recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout, recipe.output.name) == (
        2,
        8,
        0.1,
        "child",
    )
    write(tmp_path, LEAST + "lora:\n  r: x\n  beta: 1\n", "parent.yaml")
    found = problems_of(write(tmp_path, "extends: parent.yaml\n", "child.yaml"))
    assert [problem.split(": ")[0] for problem in found] == [
        f"{tmp_path}/parent.yaml:7",
        f"{tmp_path}/parent.yaml:6",
    ]


def test_extends_takes_shipped_names_and_refuses_circles_and_strangers(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "extends: demo\n")).model.name == "demo"
    circle = write(tmp_path, "extends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    assert "leads back" in "\n".join(problems_of(circle))
    assert (
        "r.yaml:1: extends: no such recipe: 'dem'"
        in problems_of(write(tmp_path, "extends: dem\n"))[0]
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("just words\n", "expected sections"),
        ("model: [a]\n", "model: expected keys below it, got a list"),
        (
            "model:\n  name: {a: b}\n",
            "r.yaml:2: model.name: expected a value or a list, got keys and values",
        ),
        ("model:\n  name: a\n  name: b\n", "r.yaml:3: model.name: given twice (first on line 2)"),
        ("model:\n\tname: a\n", "r.yaml:2: not YAML"),
        ("a: &x b\nc: *x\n", "r.yaml:1: not YAML: anchors, aliases and tags"),
        ("model: !!python/object/apply:os.system ['true']\n", "anchors, aliases and tags"),
        ("a: " + "[" * 5000, "r.yaml:1: not YAML: nested too deep"),
        ("- a\n" * 30_000, "too long, for a recipe"),
        ("a: b\n---\nc: d\n", "not YAML"),
        ("a: \x00\n", "not YAML"),
        ("# " + "x" * 1_000_001, "larger than 1 MB"),
    ],
)
def test_hostile_and_broken_files_are_one_problem(tmp_path: Path, text: str, part: str) -> None:
    found = problems_of(write(tmp_path, text))
    assert part in "\n".join(found)
    assert "YAML" not in part or len(found) == 1


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"model:\n  name: \xff\n")
    assert "not UTF-8" in problems_of(str(tmp_path / "r.yaml"))[0]


def test_encodings_are_those_of_texts(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST)
    assert load_recipe(path).data.encoding == "utf-8"
    for name, encoding in (("Windows-1252", "cp1252"), ("latin1", "iso8859-1"), ("UTF8", "utf-8")):
        assert load_recipe(path, [f"data.encoding={name}"]).data.encoding == encoding
    for name in ("rot13", "base64", "idna", "unicode_escape", "undefined", "nul", "a\0b", "''"):
        (problem,) = problems_of(path, f"data.encoding={name}")
        assert "data.encoding: expected a text encoding such as cp1252" in problem
    assert "did you mean 'cp1252'" in problems_of(path, "data.encoding=cp12552")[0]


def test_unknown_recipe_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'demo'") as caught:
        load_recipe("dmo")
    assert "flan-t5-base" in str(caught.value.hint)
    with pytest.raises(UsageError, match="a folder, not a recipe"):
        load_recipe(str(tmp_path))


words = st.text(st.characters(blacklist_categories=("Cs",)), max_size=12).filter(
    lambda text: "\x00" not in text
)


@settings(max_examples=40, deadline=None)
@example(name="no", column="\x85 \u2028\n\t\ufeff", rate=1e-5, steps=3)
@example(name="012", column="null", rate=1e-300, steps=None)
@given(
    name=words.filter(bool),
    column=words,
    rate=st.floats(1e-9, 1),
    steps=st.none() | st.integers(1, 9),
)
def test_the_resolved_recipe_loads_to_itself(
    tmp_path_factory: pytest.TempPathFactory, name: str, column: str, rate: float, steps: int | None
) -> None:
    recipe = Recipe.model_validate(
        {
            "model": {"name": name},
            "data": {"train": ["a", name], "source_column": column, "template": column},
            "training": {
                "learning_rate": rate,
                "batch_size": 3,
                **({"max_steps": steps} if steps else {}),
            },
            "output": {"name": "x"},
        }
    )
    path = tmp_path_factory.mktemp("r") / "other.yaml"
    path.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


def test_settings_alone_make_a_recipe() -> None:
    assert (
        recipe_from_settings("x", ["model.name=demo", "data.train=a=b.csv"]).data.train == "a=b.csv"
    )
    with pytest.raises(RecipeError, match=r"model\.name is required"):
        recipe_from_settings("x", ["data.train=a.csv"])


def test_a_recipe_cannot_be_written_into(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, LEAST))
    with pytest.raises(ValueError, match="frozen"):
        recipe.lora.r = 3


def test_sections_built_in_code_follow_the_same_rules() -> None:
    assert TrainingSection(batch_size=2).tokens_per_batch is None
    assert TrainingSection(tokens_per_batch=None).tokens_per_batch == "auto"
    with pytest.raises(ValueError, match="exclude each other"):
        TrainingSection(epochs=1, max_steps=3)


@pytest.mark.parametrize(
    "value",
    [
        r"C:\data\train.csv",
        r"C:\Users\me\x.csv",
        r"D:\new\table.tsv",
        r"data\raw.csv",
        r"\\server\share\x.csv",
        r"C:\temp\nice.csv",
        r"C:\_data\x.csv",
    ],
)
@pytest.mark.parametrize("form", ['"{}"', '[a.csv, "{}"]'])
def test_a_windows_path_in_double_quotes_is_told(tmp_path: Path, value: str, form: str) -> None:
    path = write(tmp_path, LEAST.replace("t.csv", form.format(value)))
    (told,) = problems_of(path)
    assert told.startswith(f"{path}:4: ")
    assert (
        "a backslash in double quotes begins an escape; write a Windows path in single quotes, or "
        "with /" in told
    )
    single = load_recipe(write(tmp_path, LEAST.replace("t.csv", f"'{value}'"), "single.yaml"))
    assert single.data.train == value


def test_escapes_in_other_keys_stay_what_they_are(tmp_path: Path) -> None:
    text = LEAST + '  template: "a\\tb\\n{x}"\n'
    assert load_recipe(write(tmp_path, text)).data.template == "a\tb\n{x}"
    assert "not YAML" in problems_of(write(tmp_path, LEAST + "  template: [", "open.yaml"))[0]


@pytest.mark.parametrize("value", ["100000000000000000000", "1e300", "9" * 400])
def test_a_number_beyond_reason_is_refused_for_every_key(value: str) -> None:
    numbers = [
        f"{name}.{key}"
        for name, section in Recipe.model_fields.items()
        for key, field in section.annotation.model_fields.items()  # type: ignore[union-attr]
        if {"int", "float"} & set(re.findall(r"\w+", str(field.annotation)))
    ]
    assert len(numbers) > 25
    for key in numbers:
        assert any(key in problem for problem in problems_of("demo", f"{key}={value}")), key


KEY = "abcdefghij0123456789ABCDEFGHIJ0123456789"


@pytest.mark.parametrize(
    "text",
    [
        *(start + KEY for start in ("hf_", "my_hf_", "api_org_", "ghp_", "gho_", "ghs_", "npm_")),
        *(start + KEY for start in ("github_pat_", "glpat-", "sk-", "AIza", "pypi-AgE", "xoxb-1-")),
        "sk-proj-Ab_cdefgh-0123456789",
        "sk-ant-api03-abcdefghij-0123456789",
        "AKIAABCDEFGHIJKLMNOP",
        "ASIAABCDEFGHIJKLMNOP",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "https://me:hunter2@host/x.csv",
        "postgres://me:hunter2@host/x",
        "https://host/x.csv?token=hunter2",
        "https://host/x.csv?v=1&X-Amz-Signature=0af3",
        "https://host/x.csv?sv=2020&sig=a%2Fb",
        "https://host/x.csv?api_key=hunter2",
    ],
)
def test_a_recipe_holds_no_secret(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from_settings("r", ["model.name=demo", f"data.train={text}"])
    assert "a password or token" in caught.value.problems[0]
    assert text not in str(caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        "data/sk-en_newstest2020_training_pairs.tsv",
        "corpora/sk-cs.europarl.v7.train.gz",
        "hf_conversations_cleaned.jsonl",
        "hf:owner/ghost_stories_2020:train[:10%]",
        "task-sk-administration-letters.csv",
        "what?config=1&design=2.csv",
        "me@host/x.csv@2",
    ],
)
def test_ordinary_names_are_no_secrets(text: str) -> None:
    settings = ["model.name=demo", f"data.train={text}"]
    assert recipe_from_settings("r", settings).data.train == text


def test_a_recorded_recipe_with_a_removed_value_still_reads(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {name: demo}\ndata: {train: x}\ntraining: {on_nonfinite: restore, epochs: 2}\n"
    )
    training = recorded_recipe(tmp_path).training
    assert (training.on_nonfinite, training.epochs) == ("stop", 2)
    with pytest.raises(RecipeError, match=r"recipe.yaml:3: training.on_nonfinite: restore was"):
        load_recipe(str(path))


def test_a_section_that_is_no_text_is_unknown() -> None:
    with pytest.raises(RecipeError, match="unknown section '1'"):
        load_recipe("demo", {1: {"r": 8}})  # type: ignore[dict-item]
