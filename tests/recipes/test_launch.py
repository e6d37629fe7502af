"""The files of recipes/launch: accelerate reads them, and a job of Slurm's that is out of time saves and queues itself anew."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from recipes.processes import ROOT, end_all, finish, start

from skygen.models.device import computes_bfloat16

LAUNCH = ROOT / "recipes" / "launch"
SRUN = """#!/bin/bash
# As srun does on one machine; when a first step was done, all processes of the job get SIGUSR1, the launcher too.
while [[ $1 == --* ]]; do shift; done
SLURM_NODEID=0 "$@" &
task=$!
below() { for child in $(cat /proc/$1/task/*/children 2>/dev/null); do below $child; done; echo $1; }
if [ -n "$STOP_WHEN" ]; then
    until [ -e "$STOP_WHEN" ]; do sleep 0.05; done
    kill -USR1 $(below $task)
fi
wait $task
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$REQUEUED"; fi
"""


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


def test_accelerate_reads_each_file_and_knows_every_key() -> None:
    read = {path.stem: load_config_from_file(str(path)) for path in sorted(LAUNCH.glob("*.yaml"))}
    assert sorted(read) == ["cpu", "fsdp", "many_gpus", "multi_node", "one_gpu", "two_cpus"]
    assert {name: config.distributed_type.value for name, config in read.items() if name in ("fsdp", "multi_node")} == {
        "fsdp": "FSDP",
        "multi_node": "MULTI_GPU",
    }
    assert read["fsdp"].fsdp_config["fsdp_version"] == 2
    assert {config.mixed_precision for config in read.values()} == {"no"}  # the recipe decides
    for path in LAUNCH.glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["compute_environment"] == "LOCAL_MACHINE"


def test_the_job_asks_for_a_signal_in_time_and_for_its_place_in_the_queue() -> None:
    script = LAUNCH / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", str(script)], check=False, capture_output=True).stderr == b""
    options = [line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=USR1@300", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} < set(options)


@pytest.mark.slow
def test_a_job_out_of_time_saves_queues_itself_again_and_goes_on(
    world: Path, captioner_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for srun and scontrol, and two processes of one machine."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    run, requeued = tmp_path / "a", tmp_path / "requeued"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    given = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "here", "SLURM_GPUS_ON_NODE": "2"}
    given |= {"SLURM_CPUS_PER_TASK": "2", "SKYGEN_LAUNCH": str(LAUNCH / "two_cpus.yaml"), "SKYGEN_PORT": port}
    given |= {"REQUEUED": str(requeued), "STOP_WHEN": str(run / "log.jsonl")}
    given["PATH"] = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    def job(steps: int) -> list[str]:
        words = {"run.name": "a", "run.root": tmp_path, "pairs.root": world, "pairs.split": "train", "images.resolution": 64}
        words |= {"model.name": captioner_folder, "lora.rank": 4, "train.max_train_steps": steps, "train.train_batch_size": 2}
        flags = [f"--{key}={value}" for key, value in words.items()]
        return ["bash", str(LAUNCH / "slurm.sbatch"), str(ROOT / "recipes" / "finetune_captioner.py"), *flags]

    said = finish(start(job(400)), code=75)
    assert "skygen: stopped by a signal after step" in said
    assert requeued.read_text() == "requeue 7\n"
    stopped = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"]
    assert 0 < stopped < 400
    assert json.loads((run / "run_status.json").read_text())["state"] == "preempted"
    monkeypatch.setenv("STOP_WHEN", "")
    said = finish(start(job(stopped + 2)))
    assert f"continues after step {stopped} of {stopped + 2}" in said
    assert requeued.read_text() == "requeue 7\n"
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, stopped + 3))


def test_auto_precision_is_bfloat16_only_where_there_are_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (({"avx2": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True), ({}, False)):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda found=capabilities: found)
        assert computes_bfloat16("cpu") is expected
    assert computes_bfloat16("mps") is False


def test_configs_ask_for_no_precision_that_a_machine_may_imitate() -> None:
    configs = sorted((ROOT / "recipes" / "configs").rglob("*.yaml"))
    assert len(configs) > 40
    asked = {
        path.stem: (yaml.safe_load(path.read_text()) or {}).get("train", {}).get("mixed_precision", "no") for path in configs
    }
    assert set(asked.values()) == {"no", "auto"}
