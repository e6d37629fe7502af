"""Two processes under `accelerate launch` train one adapter, each on its own images and noise."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from recipes.processes import end_all, finish, launcher, start

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


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
