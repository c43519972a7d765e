"""``push``: what is uploaded and what is not, refusals, the hub's answers, and cards whose code
runs. No network: a stub stands in place of huggingface_hub's client.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_parts import Invoke
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from lora_s2s import hub, limits
from lora_s2s.pipeline.export import export_model
from lora_s2s.pipeline.merge import merge_model
from lora_s2s.pipeline.private_text import private_in_weights

DEMO = Path(__file__).parents[2] / "adapters" / "demo"
TOKEN = "hf_" + "a1B2c3D4" * 4
ASKED = "hi its Ana, table for two on sat at 8pm"


class Hub:
    """A hub of one repository, or none, that keeps what is committed."""

    endpoint = "https://hub"

    def __init__(self) -> None:
        self.files: dict[str, bytes] | None = None
        self.private = True
        self.failure: Exception | None = None
        self.asked: list[str] = []

    def repo_info(self, repo: str) -> Any:
        self.asked.append(repo)
        if self.failure is not None:
            raise self.failure
        if self.files is None:
            raise RepositoryNotFoundError("none", response=answered(404))
        files = [SimpleNamespace(rfilename=name) for name in self.files]
        return SimpleNamespace(private=self.private, siblings=files, sha="c" * 40)

    def create_repo(self, repo: str, *, private: bool) -> None:
        self.files, self.private = {}, private

    def create_commit(self, repo: str, operations: list[Any], **about: Any) -> None:
        assert self.files is not None
        assert TOKEN not in str(about)
        for one in operations:
            content = one.path_or_fileobj
            self.files[one.path_in_repo] = (
                content if isinstance(content, bytes) else Path(content).read_bytes()
            )


def answered(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    served = Hub()
    monkeypatch.setattr(hub, "HfApi", lambda: served)
    monkeypatch.setattr(hub, "get_token", lambda: TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return served


@pytest.fixture
def adapter(here: Path) -> Path:
    return Path(shutil.copytree(DEMO, here / "mine"))


def put(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_an_adapter_is_uploaded_private_without_what_quotes_the_data(
    stub: Hub, adapter: Path, invoke: Invoke
) -> None:
    (adapter / "notes.txt").write_text("mine")
    (adapter / ".env").write_text(f"HF_TOKEN={TOKEN}")
    (adapter / "checkpoints" / "step-1").mkdir(parents=True)
    (adapter / "link").symlink_to("/etc/passwd")
    done = invoke("push", "mine", "me/bookings", "--json")
    report = json.loads(done.stdout)
    assert stub.files is not None
    assert stub.private
    assert report["repo"] == "me/bookings"
    assert {file["path"]: file["bytes"] for file in report["files"]} == {
        name: len(content) for name, content in stub.files.items()
    }
    left_out = {entry["path"] for entry in report["left_out"]}
    assert left_out >= {"notes.txt", ".env", "checkpoints/", "link", "report.html"}
    assert "evaluations/demo-test/predictions.jsonl" in left_out
    assert "evaluations/demo-test/scores.json" in stub.files
    weights = "adapter_model.safetensors"
    assert stub.files[weights] == (adapter / weights).read_bytes()
    assert b"## Examples" not in stub.files["README.md"]
    assert TOKEN not in done.stdout + done.stderr


def test_a_dry_run_lists_everything_and_reaches_nothing(
    stub: Hub, adapter: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    done = invoke("push", "mine", "me/x", "--dry-run", "--json")
    names = {file["path"] for file in json.loads(done.stdout)["files"]}
    assert {"README.md", "adapter_model.safetensors", "recipe.yaml"} <= names
    assert all(name in done.stderr for name in names)
    assert "report.html: quotes the data; --examples uploads it" in done.stderr
    assert (stub.asked, stub.files) == ([], None)


def test_examples_are_uploaded_when_they_are_asked_for(
    stub: Hub, adapter: Path, invoke: Invoke
) -> None:
    invoke("push", "mine", "me/x", "--examples", "--public")
    assert stub.files is not None
    assert not stub.private
    assert {"report.html", "evaluations/demo-test/predictions.jsonl"} <= set(stub.files)
    assert b"## Examples" in stub.files["README.md"]


def in_recipe(folder: Path) -> None:
    path = folder / "recipe.yaml"
    path.write_text(path.read_text().replace("train: demo:train", "train: /srv/data/rows.csv"))


def in_sources(folder: Path) -> None:
    entry = {"name": "rows.csv", "sha256": {"/home/ana/rows.csv": "ab"}}
    put(folder / "manifest.json", lambda content: content.update(sources={"train": [entry]}))


def in_base(folder: Path) -> None:
    put(folder / "manifest.json", lambda content: content["base"].update(name="~/models/t5"))


def in_config(folder: Path) -> None:
    put(
        folder / "adapter_config.json",
        lambda content: content.update(base_model_name_or_path="C:\\Users\\ana\\t5"),
    )


def in_weights(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = {"from": "/home/ana/run"}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    put(folder / "manifest.json", lambda manifest: manifest.pop("files", None))


def in_log(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"note": f"token {TOKEN}"}) + "\n")


def in_predictions(folder: Path) -> None:
    path = folder / "evaluations" / "demo-test" / "predictions.jsonl"
    path.write_text(json.dumps({"source": str(Path.cwd() / "a.csv"), "prediction": "x"}) + "\n")


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        (in_recipe, "recipe.yaml:8: a path of this machine: /srv/data/rows.csv"),
        (in_sources, "manifest.json: a key of sources.train[0].sha256: a path of this machine"),
        (in_base, "manifest.json: base.name: a path of this machine: ~/models/t5"),
        (in_config, "adapter_config.json: base_model_name_or_path: a path of this machine"),
        (in_weights, "adapter_model.safetensors: __metadata__.from: a path of this machine"),
        (in_log, "metrics.jsonl:252: a password or token"),
        (in_predictions, "evaluations/demo-test/predictions.jsonl:1: a path of this machine"),
    ],
)
def test_secrets_and_local_paths_are_refused_with_their_place(
    stub: Hub, adapter: Path, invoke: Invoke, spoil: Callable[[Path], None], place: str
) -> None:
    spoil(adapter)
    done = invoke("push", "mine", "me/x", "--examples", code=3)
    assert place in done.stderr
    assert "nothing was uploaded: 1 place" in done.stderr
    assert "hint: put a relative path or a hub id" in done.stderr
    assert TOKEN not in done.stderr
    assert (stub.asked, stub.files) == ([], None)


def test_texts_that_speak_of_paths_are_not_refused(
    stub: Hub, adapter: Path, invoke: Invoke
) -> None:
    path = adapter / "evaluations" / "demo-test" / "predictions.jsonl"
    path.write_text('{"source": "list /home/ana", "prediction": "ls /home/ana/x"}\n')
    put(
        adapter / "manifest.json",
        lambda content: content["input"].update(template="yes/no: {source} or http://a.b/home/x"),
    )
    invoke("push", "mine", "me/x", "--examples")


def linked_weights(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.rename(folder / "other.jsonl")
    path.symlink_to("other.jsonl")


def linked_out(folder: Path) -> None:
    secret = folder.parent / "secret.json"
    secret.write_text("{}")
    (folder / "added_tokens.json").symlink_to(secret)


def linked_evaluations(folder: Path) -> None:
    outside = folder.parent / "outside"
    (outside / "x").mkdir(parents=True)
    (outside / "x" / "scores.json").write_text("{}")
    shutil.rmtree(folder / "evaluations")
    (folder / "evaluations").symlink_to(outside)


def piped(folder: Path) -> None:
    (folder / "LICENSE").unlink(missing_ok=True)
    os.mkfifo(folder / "LICENSE")


def large(folder: Path) -> None:
    with (folder / "loss_curve.png").open("ab") as stream:
        stream.truncate(limits.LARGEST_PUBLISHED + 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (linked_weights, "metrics.jsonl is a link, so it is not uploaded"),
        (linked_out, "added_tokens.json is a link that leads out of its folder"),
        (piped, "LICENSE is not a regular file, so it is not uploaded"),
        (large, "loss_curve.png has more than 50 GiB"),
    ],
)
def test_links_pipes_and_large_files_are_refused(
    stub: Hub, adapter: Path, invoke: Invoke, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(adapter)
    assert f"error: {message}" in invoke("push", "mine", "me/x", "--examples", code=3).stderr
    assert stub.files is None


def test_a_linked_folder_is_not_followed(stub: Hub, adapter: Path, invoke: Invoke) -> None:
    linked_evaluations(adapter)
    assert "evaluations is a link that leads out" in invoke("push", "mine", "me/x", code=3).stderr
    shutil.rmtree(adapter)
    shutil.copytree(DEMO, adapter)
    inside = adapter / "checkpoints" / "step-1"
    inside.mkdir(parents=True)
    (inside / "scores.json").write_text("{}")
    (adapter / "evaluations" / "x").symlink_to("../checkpoints/step-1")
    report = json.loads(invoke("push", "mine", "me/x", "--json").stdout)
    assert "evaluations/x" in {entry["path"] for entry in report["left_out"]}
    assert "evaluations/x/scores.json" not in {file["path"] for file in report["files"]}


def test_many_files_are_not_listed(
    stub: Hub, adapter: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_PUBLISHED", 20)
    for number in range(20):
        (adapter / f"{number}.log").touch()
    assert "more than 20 files" in invoke("push", "mine", "me/x", code=3).stderr


def test_names_count_where_they_belong(stub: Hub, adapter: Path, invoke: Invoke) -> None:
    """A pattern's star stands for no folder."""
    (adapter / "evaluations" / "x" / "y").mkdir(parents=True)
    (adapter / "evaluations" / "x" / "y" / "scores.json").write_text("{}")
    (adapter / "evaluations" / "secret.model").write_text("{}")
    report = json.loads(invoke("push", "mine", "me/x", "--json").stdout)
    left_out = {entry["path"] for entry in report["left_out"]}
    assert left_out >= {"evaluations/x/y/", "evaluations/secret.model"}


def test_notes_in_a_graph_are_searched(tmp_path: Path) -> None:
    graph = tmp_path / "encoder.onnx"
    graph.write_bytes(bytes(range(256)) * 8192 + b"\0\x08/home/ana/model.py\0" + bytes(9))
    assert list(private_in_weights("onnx/encoder.onnx", graph))
    graph.write_bytes(bytes(range(256)) * 8192)
    assert not list(private_in_weights("onnx/encoder.onnx", graph))


def test_a_linked_readme_of_an_export_is_not_published(
    stub: Hub, folders: dict[str, Path], invoke: Invoke, here: Path
) -> None:
    shutil.copytree(folders["ct2"], "export")
    Path("private.md").write_text("```python\nmy_private_notes = 1\n```\n")
    Path("export/README.md").unlink()
    Path("export/README.md").symlink_to(here / "private.md")
    invoke("push", "export", "me/x")
    assert stub.files is not None
    assert b"my_private_notes" not in stub.files["README.md"]


def test_a_damaged_folder_and_other_folders_are_refused(
    stub: Hub, adapter: Path, invoke: Invoke
) -> None:
    Path("empty").mkdir()
    assert (
        "neither an adapter, a model nor an export"
        in invoke("push", "empty", "me/x", code=3).stderr
    )
    assert "no such folder: nix" in invoke("push", "nix", "me/x", code=3).stderr
    entry = {"adapter_model.safetensors": {"sha256": "0" * 64, "bytes": 3}}
    put(adapter / "manifest.json", lambda content: content.update(files=entry))
    assert "differs from its hash" in invoke("push", "mine", "me/x", code=3).stderr
    (adapter / "adapter_model.safetensors").unlink()
    assert "mine holds no weights" in invoke("push", "mine", "me/x", code=3).stderr


@pytest.mark.parametrize(
    "repo", ["x", "a/b/c", "../x", "me/", "me/a b", "me/x--y", "m" * 99 + "/x"]
)
def test_malformed_repository_names(stub: Hub, adapter: Path, invoke: Invoke, repo: str) -> None:
    done = invoke("push", "mine", repo, "--dry-run", code=2)
    assert f"malformed repository name '{repo}', expected USER/NAME" in done.stderr


def test_repositories_that_exist(stub: Hub, adapter: Path, invoke: Invoke) -> None:
    stub.files = {".gitattributes": b"", "other.txt": b"kept"}
    done = invoke("push", "mine", "me/x", code=2)
    assert "me/x holds 1 files already (other.txt, …)" in done.stderr
    assert "--overwrite" in done.stderr
    assert set(stub.files) == {".gitattributes", "other.txt"}
    invoke("push", "mine", "me/x", "--overwrite")
    assert {"other.txt", "adapter_model.safetensors"} <= set(stub.files)
    stub.private = False
    assert "me/x is public" in invoke("push", "mine", "me/x", "--overwrite", code=2).stderr


def refused(status: int) -> HfHubHTTPError:
    return HfHubHTTPError("no", response=answered(status))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (refused(401), "the hub does not accept the token\nhint: hf auth login"),
        (refused(403), "the token may not write to me/x\nhint: `hf auth whoami`"),
        (refused(500), "the hub refused the upload to me/x (status 500)"),
        (HTTPError("no route"), "cannot reach the hub (HTTPError)"),
        (OfflineModeIsEnabled("off"), "cannot reach the hub (OfflineModeIsEnabled)"),
    ],
)
def test_failures_of_the_hub(
    stub: Hub, adapter: Path, invoke: Invoke, failure: Exception, message: str
) -> None:
    stub.failure = failure
    assert message in invoke("push", "mine", "me/x", code=5).stderr


def test_no_token_and_no_network(
    stub: Hub, adapter: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    done = invoke("push", "mine", "me/x", code=5)
    assert "no Hugging Face token" in done.stderr
    assert "hint: hf auth login (or set HF_TOKEN" in done.stderr
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the hub is switched off here" in invoke("push", "mine", "me/x", code=5).stderr


def test_licenses_in_the_card(stub: Hub, adapter: Path, invoke: Invoke) -> None:
    put(adapter / "manifest.json", lambda content: content["base"].update(name="a/base"))
    path = adapter / "recipe.yaml"
    path.write_text(path.read_text().replace("train: demo:train", "train: my.csv"))
    invoke("push", "mine", "me/x", "--data-license", "cc-by-4.0")
    assert stub.files is not None
    card = stub.files["README.md"].decode()
    assert "| License of the base | **to be filled in**" in card
    assert r"| License of the data | cc\-by\-4\.0 |" in card
    assert "| lora r | 16 |" in card
    invoke("push", "mine", "me/x", "--base-license", "mit", "--overwrite")
    assert ModelCard(stub.files["README.md"].decode()).data.license == "mit"
    assert (
        "is not a license"
        in invoke("push", "mine", "me/x", "--base-license", "[x](y)", code=2).stderr
    )


@pytest.fixture(scope="module")
def folders(few: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo's adapter, merged, and as an export."""
    place = tmp_path_factory.mktemp("folders")
    merge_model(str(DEMO), place / "merged", data=few)
    export_model(str(DEMO), place / "ct2", format="ct2", precision="int8", data=few)
    return {"adapter": DEMO, "merged": place / "merged", "ct2": place / "ct2"}


@pytest.mark.parametrize("kind", ["adapter", "merged", "ct2"])
def test_every_snippet_of_a_card_answers(
    kind: str,
    folders: dict[str, Path],
    stub: Hub,
    invoke: Invoke,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As written: the hub's local cache holds what was uploaded."""
    invoke("push", str(folders[kind]), f"me/{kind}")
    assert stub.files is not None
    stored, commit = here / "cache" / f"models--me--{kind}", "c" * 40
    for name, content in stub.files.items():
        path = stored / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    card = stub.files["README.md"].decode()
    assert re.search(
        r"\| demo\\-test \| 250 \| exact\\_match \|.*\| 96\\\.00 .*92\\\.79, 97\\\.81", card
    )
    blocks = re.findall(r"```(\w+)\n(.*?)```", card, flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "python"]
    answers = []
    for number, (_, code) in enumerate(blocks):
        script = here / f"use{number}.py"
        script.write_text(code.replace("your text", ASKED), encoding="utf-8")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(script))
        answers.append(printed.getvalue().strip())
    assert "name: Ana" in answers[0]
    assert answers[0] == answers[1]
    if kind == "ct2":
        assert "Greedy tokens/s" in card
        assert (
            len(
                re.findall(
                    r"^\| (?:transformers, float32|CTranslate2, int8) \|(?: [\d\\.,e+]+ \|){3}$",
                    card,
                    re.M,
                )
            )
            == 2
        )
