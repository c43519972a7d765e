"""The first opening of a config and a tokenizer: real child processes, and what is remembered of
them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spoiling import Spoil, both, deep, file, patched, spoilt_copy

from lora_s2s import limits, probe
from lora_s2s.errors import DataError, SetupError
from lora_s2s.hub import DEMO_BASE

# Taken before the session's fixture puts its own in place.
REAL = probe._tried
GROWS = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"} for _ in range(20)
    ],
}
DECODES = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 9} for _ in range(4)
    ],
}
BACKTRACKS = {
    "type": "Split",
    "pattern": {"Regex": "(?:a|a)+b"},
    "behavior": "Isolated",
    "invert": False,
}
FRAMES = {
    "type": "TemplateProcessing",
    "single": [
        {"Sequence": {"id": "A", "type_id": 0}},
        *([{"SpecialToken": {"id": "</s>", "type_id": 0}}] * 500),
    ],
    "pair": [],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
}


def plainly(part: str, value: Any) -> Spoil:
    """Puts a part into a tokenizer whose class takes it as it is; T5's own builds some of them
    anew.
    """
    plain = patched("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    return both(deep("tokenizer.json", part, value=value), plain)


def charsmap(text: str) -> dict[str, str]:
    return {"type": "Precompiled", "precompiled_charsmap": text}


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Real children, and a memory of their own that is empty."""
    monkeypatch.setattr(probe, "_tried", REAL)
    monkeypatch.setattr(probe, "_outcomes", {})
    monkeypatch.setenv("LORA_S2S_CACHE", str(tmp_path / "cache"))
    # So that memory is what ends a child that fills it, soon and on a slow machine too.
    monkeypatch.setattr(limits, "CHILD_MEMORY", 256 * limits.MIB)
    monkeypatch.setattr(limits, "CHILD_CPU_SECONDS", 100)
    monkeypatch.setattr(limits, "CHILD_SECONDS", 300)
    return tmp_path / "cache"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
@pytest.mark.parametrize(
    ("spoil", "said", "name"),
    [
        (
            deep("tokenizer.json", "normalizer", value=charsmap("//////////8=")),
            "SIGABRT",
            "tokenizer.json",
        ),
        (
            deep("tokenizer.json", "normalizer", value=charsmap("BAAAAP////8=")),
            "panic",
            "tokenizer.json",
        ),
        (plainly("normalizer", GROWS), "tokenizer", "tokenizer.json"),
        (plainly("decoder", DECODES), "decoder makes", "tokenizer.json"),
        (plainly("post_processor", FRAMES), "special tokens around a text", "tokenizer.json"),
        (plainly("pre_tokenizer", BACKTRACKS), "panic", "tokenizer.json"),
        (patched("config.json", num_labels=20_000_000), "of memory", "config.json"),
        (patched("config.json", id2label=None, num_labels="x"), "config", "config.json"),
        (file("generation_config.json", "[]"), "generation config", "generation_config.json"),
    ],
    ids=[
        "aborts",
        "panics",
        "normalizer",
        "decoder",
        "frames",
        "backtracks",
        "num_labels",
        "labels",
        "generation",
    ],
)
def test_what_ends_or_fills_the_child_is_told(
    spoil: Callable[[Path], object],
    said: str,
    name: str,
    tmp_path: Path,
    tiny_model: Path,
    capfd: Any,
) -> None:
    bad = spoilt_copy(tiny_model, tmp_path, spoil)
    with pytest.raises(DataError) as caught:
        probe.check_tokenizer(bad)
    assert said in caught.value.message
    assert caught.value.where == str(bad / name)
    assert "panicked" not in capfd.readouterr().err


def child_that(does: str, folder: Path) -> Path:
    """The child's program with other lines where it loads the tokenizer."""
    text = probe._CHILD.read_text(encoding="utf-8")
    loads = "def open_tokenizer(folder: Path) -> Any:\n"
    assert text.count(loads) == 1
    lines = "".join(f"    {line}\n" for line in does.splitlines())
    (folder / "child.py").write_text(
        text.replace(loads, f"{loads}{lines}\n\ndef unused(folder: Path) -> Any:\n")
    )
    return folder / "child.py"


@pytest.mark.skipif(os.name != "posix", reason="CPU time is limited where the system can")
def test_what_takes_for_ever_is_told(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHILD_CPU_SECONDS", 1)
    monkeypatch.setattr(probe, "_CHILD", child_that("while True: pass", tmp_path))
    with pytest.raises(DataError, match="more than 1 seconds"):
        probe.check_tokenizer(tiny_model)


def test_what_waits_for_ever_is_told(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = 'import time\nprint(\'{"stage": "tokenizer"}\', flush=True)\ntime.sleep(600)\n'
    (tmp_path / "child.py").write_text(waits)
    monkeypatch.setattr(limits, "CHILD_SECONDS", 5)
    monkeypatch.setattr(probe, "_CHILD", tmp_path / "child.py")
    with pytest.raises(DataError, match=r"from tiny.*: it took more than 5 seconds"):
        probe.check_tokenizer(tiny_model)


def test_a_broken_tokenizer_does_not_stand_in_the_way_of_the_model(
    tmp_path: Path, tiny_model: Path
) -> None:
    bad = spoilt_copy(tiny_model, tmp_path, deep("tokenizer.json", "model", value={"type": "Evil"}))
    probe.check_config(bad)
    with pytest.raises(DataError, match="no tokenizer can be loaded"):
        probe.check_tokenizer(bad)


def no_child(folder: Path) -> None:
    raise AssertionError(f"{folder} was opened in a child")


def test_what_passed_is_remembered_by_its_content(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = spoilt_copy(tiny_model, tmp_path, lambda folder: None)
    probe.check_tokenizer(good)
    monkeypatch.setattr(probe, "_tried", no_child)
    monkeypatch.setattr(probe, "_outcomes", {})  # as another process
    probe.check_tokenizer(good)
    (good / "manifest.json").write_text("{}")  # changes with every evaluation
    good.rename(tmp_path / "renamed")
    probe.check_config(tmp_path / "renamed")
    patched("tokenizer_config.json", model_max_length=77)(tmp_path / "renamed")
    with pytest.raises(AssertionError):
        probe.check_config(tmp_path / "renamed")


def test_the_bundled_base_and_what_is_written_here_start_no_child(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_tried", no_child)
    probe.check_tokenizer(DEMO_BASE)
    probe.check_tokenizer(spoilt_copy(DEMO_BASE, tmp_path, lambda folder: None))
    probe.remember(tiny_model)
    monkeypatch.setattr(probe, "_outcomes", {})
    probe.check_tokenizer(tiny_model)


def _linked(cache: Path) -> None:
    other = cache.with_name("other")
    (other / "opened").mkdir(parents=True)
    cache.symlink_to(other)


def _open_to_all(cache: Path) -> None:
    (cache / "opened").mkdir(parents=True)
    (cache / "opened").chmod(0o777)


def _a_file(cache: Path) -> None:
    cache.write_text("")


@pytest.mark.skipif(os.name != "posix", reason="no owners and links")
@pytest.mark.parametrize("spoil", [_linked, _open_to_all, _a_file])
def test_a_memory_that_others_may_have_written_is_not_believed(
    spoil: Callable[[Path], None], fresh: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(fresh)
    if fresh.is_dir():
        (fresh / "opened" / probe.content_key(tiny_model)).touch(mode=0o600)
    monkeypatch.setattr(probe, "_tried", no_child)
    with pytest.raises(AssertionError):
        probe.check_tokenizer(tiny_model)
    monkeypatch.setattr(probe, "_tried", lambda folder: None)
    probe.check_tokenizer(tiny_model)  # nor does it stand in the way


def test_the_child_has_no_secret_and_no_network(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "MY_PASSWORD", "PYTHONPATH"):
        monkeypatch.setenv(name, "hunter2")
    looks = f"""import os, socket
for act in (lambda: socket.create_connection(("127.0.0.1", 9)), lambda: os.system("true"),
            lambda: open({str(tmp_path / "written")!r}, "w")):
    try:
        act()
    except PermissionError:
        continue
    raise Refused("it was let through")
leaks = [name for name, value in os.environ.items() if "hunter2" in value]
raise Refused("offline " + os.environ.get("HF_HUB_OFFLINE", "no") + ", leaks " + str(leaks))"""
    monkeypatch.setattr(probe, "_CHILD", child_that(looks, tmp_path))
    with pytest.raises(DataError) as caught:
        probe.check_tokenizer(tiny_model)
    assert "offline 1, leaks []" in caught.value.message
    assert not (tmp_path / "written").exists()


def test_without_a_child_nothing_unknown_is_opened(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(SetupError, match="no child process can be started"):
        probe.check_config(tiny_model)
    probe.check_config(DEMO_BASE)


def test_a_child_that_does_not_start_is_told(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(probe, "_CHILD", tmp_path / "child.py")
    with pytest.raises(SetupError, match="does not start: ended exit code 3"):
        probe.check_config(tiny_model)


def test_an_order_reaches_the_child_whole(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text(
        "import json, sys\nfolder = json.loads(sys.stdin.readline())['folder']\n"
        "print(json.dumps({'stage': 'use'}))\nprint(json.dumps({'end': {'kind': 'Refused', "
        "'reason': folder}}))\n"
    )
    monkeypatch.setattr(probe, "_CHILD", tmp_path / "child.py")
    odd = tmp_path / "ünïcödé\nand a line"
    spoilt_copy(tiny_model, tmp_path, lambda folder: None).rename(odd)
    with pytest.raises(DataError) as caught:
        probe.check_tokenizer(odd)
    assert (
        json.dumps(str(odd))[1:-1].split("\\n")[0].encode().decode("unicode_escape")
        in caught.value.message
    )


def test_what_the_child_refuses_is_opened_nowhere_else(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    from lora_s2s.models.loading import load_base
    from lora_s2s.tokens.loading import load_tokenizer

    def opened(*_words: object, **_more: object) -> object:
        raise AssertionError("it was opened")

    bad = spoilt_copy(tiny_model, tmp_path, patched("config.json", unheard_of=1))
    monkeypatch.setattr(
        probe, "_tried", lambda folder: probe.Failure("config", "signal", "SIGSEGV")
    )
    monkeypatch.setattr(transformers.T5Config, "from_dict", opened)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", opened)
    for load in (load_base, load_tokenizer):
        with pytest.raises(
            DataError, match=r"no config can be loaded from bad: it ends the process .* \(SIGSEGV\)"
        ):
            load(str(bad))
