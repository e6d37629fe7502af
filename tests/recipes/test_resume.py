"""Whole recipes under `accelerate launch`: killed or asked to stop and started again, they end as if nothing had been."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recipes.processes import ROOT, end_all, finish, kill_all, launcher, start, wait_for

pytestmark = pytest.mark.slow
ADAPTERS = {
    "finetune_captioner": "adapter/adapter_model.safetensors",
    "finetune_diffusion": "adapter/pytorch_lora_weights.safetensors",
}


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


def flags(recipe: str, name: str, root: Path, world: Path, model: Path, **train: object) -> list[str]:
    settings = {"max_train_steps": 6, "train_batch_size": 4, "checkpointing_steps": 3, "ema_decay": 0.9, "learning_rate": 1e-2}
    settings["gradient_accumulation_steps"] = 4
    words = {"run.name": name, "run.root": root, "pairs.root": world, "pairs.split": "train", "model.name": model}
    words |= {"images.resolution": 64, "lora.rank": 4, "lora.lora_dropout": 0.1}
    words |= {f"train.{key}": value for key, value in (settings | train).items()}
    return [str(ROOT / "recipes" / f"{recipe}.py"), *(f"--{key}={value}" for key, value in words.items())]


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def told(records: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    """Keep what does not depend on the clock."""
    return [tuple(record[name] for name in ("step", "loss", "gradient_norm", "learning_rate", "images")) for record in records]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("recipe", list(ADAPTERS))
def test_killed_and_started_again_is_not_interrupted(
    recipe: str, processes: int, world: Path, captioner_folder: Path, stable_diffusion_folder: Path, tmp_path: Path
) -> None:
    model = captioner_folder if recipe == "finetune_captioner" else stable_diffusion_folder

    def command(name: str) -> list[str]:
        return launcher(processes) + flags(recipe, name, tmp_path, world, model)

    unbroken = start(command("unbroken"))
    killed = start(command("broken"))
    wait_for(tmp_path / "broken" / "checkpoints" / "step-000003", killed)
    kill_all(killed.pid)
    killed.communicate()
    assert not (tmp_path / "broken" / ADAPTERS[recipe]).exists()
    assert json.loads((tmp_path / "broken" / "run_status.json").read_text())["state"] == "running"
    finish(unbroken)
    finish(start(command("broken")))
    first, second = ((tmp_path / name / ADAPTERS[recipe]).read_bytes() for name in ("unbroken", "broken"))
    assert first == second
    for name in ("unbroken", "broken"):
        assert json.loads((tmp_path / name / "environment.json").read_text())["processes"] == processes
        assert {record["images"] for record in log_of(tmp_path / name)} == {32 if processes == 2 else 16}
    logs = [told(log_of(tmp_path / name)) for name in ("unbroken", "broken")]
    assert [record[0] for record in logs[0]] == [1, 2, 3, 4, 5, 6]
    assert logs[0] == logs[1]
    assert sorted(path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()) == ["step-000003", "step-000006"]
    assert json.loads((tmp_path / "broken" / "run_status.json").read_text())["state"] == "finished"


def test_asked_to_stop_it_saves_ends_with_75_and_continues(world: Path, captioner_folder: Path, tmp_path: Path) -> None:
    def command(steps: int) -> list[str]:
        words = flags(
            "finetune_captioner", "a", tmp_path, world, captioner_folder, max_train_steps=steps, checkpointing_steps=0
        )
        return [sys.executable, *words]

    process = start(command(400))
    wait_for(tmp_path / "a" / "log.jsonl", process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    status = json.loads((tmp_path / "a" / "run_status.json").read_text())
    stopped = log_of(tmp_path / "a")[-1]["step"]
    assert (status["state"], status["step"]) == ("preempted", stopped)
    assert status["reason"] == f"stopped by a signal after step {stopped}; the same command continues."
    assert f"skygen: {status['reason']}" in said
    assert 0 < stopped < 400
    assert (tmp_path / "a" / "checkpoints" / f"step-{stopped:06d}").is_dir()
    finish(start(command(stopped + 2)))
    assert [record["step"] for record in log_of(tmp_path / "a")] == list(range(1, stopped + 3))


def test_a_dead_launcher_does_not_leave_the_training_on(world: Path, captioner_folder: Path, tmp_path: Path) -> None:
    words = flags("finetune_captioner", "a", tmp_path, world, captioner_folder, max_train_steps=2000)
    process = start(launcher(1) + words)
    wait_for(tmp_path / "a" / "log.jsonl", process)
    process.terminate()
    process.communicate(timeout=60)  # the recipe holds the same pipe: this returns when it too has ended
    assert json.loads((tmp_path / "a" / "run_status.json").read_text())["state"] == "preempted"
    assert log_of(tmp_path / "a")[-1]["step"] < 2000


def test_two_processes_hold_one_adapter_and_see_other_images_and_noise(
    world: Path, stable_diffusion_folder: Path, tmp_path: Path
) -> None:
    program = [str(Path(__file__).parent / "compare_ranks.py"), str(world), str(stable_diffusion_folder)]
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        finish(start([*launcher(processes), *program, str(tmp_path / str(processes))]))
    alone = json.loads((tmp_path / "1" / "rank-0-of-1.json").read_text())
    ranks = [json.loads((tmp_path / "2" / f"rank-{rank}-of-2.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["steps"] == ranks[1]["steps"]
    assert len({step["parameters"] for step in ranks[0]["steps"]}) == 2
    assert len({*ranks[0]["noise"], *ranks[1]["noise"]}) == 4
    assert [first + second for first, second in zip(ranks[0]["keys"], ranks[1]["keys"], strict=True)] == alone["keys"]
    assert len(alone["keys"]) == 2
    for name in ("loss", "gradient_norm", "images"):
        assert ranks[0]["steps"][0][name] == pytest.approx(alone["steps"][0][name], rel=1e-5)
