"""The contrastive loss: its value in closed form, and the same gradient from one process as from two."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skygen.models.contrastive import info_nce

CONTRAST = Path(__file__).with_name("contrast_ranks.py")


def test_info_nce_of_two_pairs_in_closed_form() -> None:
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    scale = torch.tensor(3.0)
    losses = info_nce(images, texts, scale)

    def cross_entropy(own: float, other: float) -> float:
        return -math.log(math.exp(3 * own) / (math.exp(3 * own) + math.exp(3 * other)))

    first = (cross_entropy(1.0, 0.6) + cross_entropy(1.0, 0.0)) / 2
    second = (cross_entropy(0.8, 0.0) + cross_entropy(0.8, 0.6)) / 2
    assert losses.tolist() == pytest.approx([first, second], rel=1e-6)


def test_pairs_that_match_perfectly_cost_almost_nothing() -> None:
    assert info_nce(torch.eye(4), torch.eye(4), torch.tensor(100.0)).max() < 1e-30
    assert info_nce(torch.eye(4), torch.eye(4), torch.tensor(0.0)).tolist() == pytest.approx([math.log(4)] * 4)


@pytest.mark.slow
def test_two_processes_contrast_all_pairs_and_get_the_gradient_of_one(skyclip_folder: Path, tmp_path: Path) -> None:
    """Six pairs on one process; four and two on two; and with all of them on the first of two, the second just joins."""
    results = {}
    for name, shares in {"one": "6", "two": "4,2", "joined": "6,0"}.items():
        processes = len(shares.split(","))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
                   str(CONTRAST), str(skyclip_folder), shares, str(tmp_path / f"{name}.json")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        results[name] = json.loads((tmp_path / f"{name}.json").read_text())
    one = results.pop("one")
    assert len(one["gradients"]) > 50 and results
    for several in results.values():
        assert several["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert several["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            assert several["gradients"][name] == pytest.approx(gradient, abs=2e-3 * gradient[0] + 1e-6), name
