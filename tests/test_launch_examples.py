"""docs/launch: what a scheduler reads is well formed, and its commands start the training that they
say.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import programs
import pytest
import safetensors.torch
import yaml
from doc_pages import problem_of
from preloaded import Preloaded

LAUNCH = Path(__file__).parents[1] / "docs" / "launch"
SLURM = LAUNCH / "slurm.sh"
JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}


def stubs(folder: Path, **scripts: str) -> dict[str, str]:
    """Programs that stand for the scheduler's, first on PATH, and the environment of a job."""
    for name, body in scripts.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    path_list = os.pathsep.join((str(folder), os.environ["PATH"]))
    return programs.environment(**JOB, SLURM_GPUS_ON_NODE="1", PATH=path_list)


def options_of_torchrun(words: list[str]) -> dict[str, str]:
    """The launcher's options before the module, which its own parser knows."""
    from torch.distributed.run import get_args_parser

    parsed, rest = get_args_parser().parse_known_args(words)
    assert (parsed.module, parsed.training_script) == (True, "lora_s2s")
    assert not rest
    assert problem_of(parsed.training_script_args) is None
    return {key: str(value) for key, value in vars(parsed).items()}


def test_the_slurm_script_starts_a_torchrun_on_each_machine(tmp_path: Path) -> None:
    assert subprocess.run(["bash", "-n", SLURM], check=False).returncode == 0
    if checker := shutil.which("shellcheck"):
        assert subprocess.run([checker, SLURM], check=False).returncode == 0
    hosts = 'test "$1" = show && printf "first\\nsecond\\n"'
    asked = f'printf "%s\\n" "$@" > {tmp_path}/asked; exit 3'
    environment = stubs(tmp_path, scontrol=hosts, srun=asked)
    command = ["bash", SLURM, "demo", "--set", "training.seed=1"]
    assert subprocess.run(command, env=environment, check=False).returncode == 3
    kill, program, *words = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert (kill, program) == ("--kill-on-bad-exit=1", "torchrun")
    options = options_of_torchrun(words)
    assert (options["nnodes"], options["nproc_per_node"], options["rdzv_backend"]) == (
        "2",
        "1",
        "c10d",
    )
    assert options["rdzv_endpoint"] == "first:24711"
    assert words[-5:] == ["train", "demo", "--resume", "--set", "training.seed=1"]


def test_a_job_that_is_out_of_time_saves_and_is_queued_again(tmp_path: Path) -> None:
    control = f'test "$1" = show && echo first || echo "$@" > {tmp_path}/queued'
    step = f'trap "echo saved > {tmp_path}/saved; exit 143" TERM; touch {tmp_path}/begun; '
    environment = stubs(tmp_path, scontrol=control, srun=f"{step} while :; do sleep 0.05; done")
    job = subprocess.Popen(["bash", SLURM, "demo"], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)  # the script's own trap is set after the step began
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 143
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "queued").read_text(encoding="utf-8") == "requeue 4711\n"


def text_of(value: object) -> str:
    assert isinstance(value, str), value
    return value


def test_the_skypilot_task_has_the_fields_of_one() -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text(encoding="utf-8"))
    sky = pytest.importorskip("sky") if "sky" in sys.modules else None
    if sky is not None:
        sky.Task.from_yaml(str(LAUNCH / "skypilot.yaml"))
    known = {"name", "num_nodes", "resources", "workdir", "envs", "file_mounts", "setup", "run"}
    assert set(task) == known
    assert re.fullmatch(r"[a-z][a-z0-9-]*", text_of(task["name"]))
    assert task["num_nodes"] == 1
    assert re.fullmatch(r"[A-Z0-9]+:[1-9]\d*", text_of(task["resources"]["accelerators"]))
    assert task["resources"]["use_spot"] is True
    ((mount, bucket),) = task["file_mounts"].items()
    assert mount.startswith("/")
    assert bucket["mode"] in ("MOUNT", "COPY", "MOUNT_CACHED")
    for part in ("setup", "run"):
        done = subprocess.run(["bash", "-n"], input=text_of(task[part]), text=True, check=False)
        assert done.returncode == 0
    words = shlex.split(task["run"].replace("\\\n", " "))
    assert words[0].endswith("/lora-s2s")
    given = [
        word.replace("$RECIPE", "demo").replace("$SKYPILOT_NUM_GPUS_PER_NODE", "8")
        for word in words
    ]
    assert problem_of(given[1:]) is None
    assert f"output.dir={mount}/adapters" in given
    assert set(task["envs"]) == {"RECIPE"}


def test_the_kubernetes_job_runs_as_the_images_user_without_rights() -> None:
    job = yaml.safe_load((LAUNCH / "kubernetes-job.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", job["metadata"]["name"])
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in ("OnFailure", "Never")
    assert isinstance(job["spec"]["backoffLimit"], int)
    dockerfile = (LAUNCH.parent / "Dockerfile").read_text(encoding="utf-8")
    user = int(re.findall(r"--uid (\d+)", dockerfile)[0])
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (
        True,
        user,
    )
    (container,) = pod["containers"]
    assert f"-t {container['image']} " in dockerfile
    rights: dict[str, Any] = container["securityContext"]
    assert (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, True)
    assert rights["capabilities"] == {"drop": ["ALL"]}
    words = container["command"]
    assert all(isinstance(word, str) for word in words)
    assert words[0] == "lora-s2s"
    assert problem_of(["demo" if word == "my.yaml" else word for word in words[1:]]) is None
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert words[words.index("--processes") + 1] == str(gpus)
    assert {one["name"] for one in container["volumeMounts"]} == {
        one["name"] for one in pod["volumes"]
    }
    assert all(isinstance(one["value"], str) for one in container["env"])
    writable = [one["mountPath"] for one in container["volumeMounts"]]
    folders = [container["workingDir"], *(one["value"] for one in container["env"])]
    assert all(any(folder.startswith(place) for place in writable) for folder in folders)


@pytest.mark.slow
def test_two_machines_by_the_slurm_script_train_what_one_process_trains(
    tmp_path: Path, tiny_model: Path, preloaded: Preloaded
) -> None:
    """Both machines are this one: the stub of srun starts the step twice."""
    rows = [{"source": f"house {n}", "target": f"number {n}"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"name": str(tiny_model), "dtype": "float32"},
        "data": {"train": "rows.jsonl", "validation_fraction": 0.2},
        "lora": {"r": 4},
        "training": {"max_steps": 4, "batch_size": 4, "gradient_accumulation": 2},
        "output": {"dir": "adapters"},
    }
    (tmp_path / "it.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    twice = '[ "$1" = --kill-on-bad-exit=1 ] && shift\n"$@" & one=$!\n"$@" & wait $! && wait $one'
    hosts = 'test "$1" = show && printf "localhost\\nlocalhost\\n"'
    torchrun = f'exec {shlex.quote(sys.executable)} -m torch.distributed.run "$@"'
    environment = stubs(tmp_path, scontrol=hosts, srun=twice, torchrun=torchrun)
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    how: dict[str, Any] = {"cwd": tmp_path, "env": environment, "timeout": 500}
    subprocess.run(["bash", SLURM, "it.yaml", "--set", "output.name=two"], check=True, **how)
    alone = preloaded.run(tmp_path, "train", "it.yaml", "--set", "output.name=one")
    assert alone.code == 0, alone.stderr
    one, two = (
        safetensors.torch.load_file(tmp_path / "adapters" / name / "adapter_model.safetensors")
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-4
