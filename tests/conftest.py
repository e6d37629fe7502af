"""What several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

install_import_hook("skygen", "typechecking.check_types")  # before anything of skygen is imported
os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors: more threads only wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the test that takes minutes: at the end one process would wait for the other that is at it."""
    items.sort(key=lambda item: item.path.name != "test_closed_loop.py")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show the figures of the tests of faults that have run, as one table."""
    from faults.figures import collect, describe, keep

    table = collect(report for reports in terminalreporter.stats.values() for report in reports)
    if table:
        terminalreporter.section("figures of faults")
        for line in describe(table):
            terminalreporter.write_line(line)
        keep(table)


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Find a real data set that lies beside the repository, not in it; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        folder = _SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"the data set {name} is not beside this repository (shared/data/{name})")
        return folder

    return find


@pytest.fixture
def stop() -> Iterator[Any]:
    """What listens for SIGTERM and SIGUSR1 until the test is over."""
    from skygen.signals import StopSignal

    stop = StopSignal()
    stop.listen()
    yield stop
    stop.leave()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fabricated data set of 60 pairs in SkyScript's layout."""
    from skygen.miniature.fabricate import fabricate

    root = tmp_path_factory.mktemp("fabricated") / "world"
    fabricate(root, pairs=60, seed=3)
    return root


@pytest.fixture(scope="session")
def skyclip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of the miniature's size with random weights, in open_clip's layout."""
    from skygen.miniature.architectures import build_skyclip
    from skygen.seeding import Seeds

    folder = tmp_path_factory.mktemp("skyclip") / "skyclip"
    build_skyclip(folder, Seeds(7))
    return folder


@pytest.fixture(scope="session")
def captioner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP of the miniature's size with random weights, in transformers' layout."""
    from skygen.miniature.architectures import build_captioner
    from skygen.seeding import Seeds

    folder = tmp_path_factory.mktemp("captioner") / "captioner"
    build_captioner(folder, Seeds(7))
    return folder


@pytest.fixture(scope="session")
def stable_diffusion_folder(tmp_path_factory: pytest.TempPathFactory, skyclip_folder: Path) -> Path:
    """A Stable Diffusion of the miniature's size with random weights, in diffusers' layout."""
    from skygen.miniature.architectures import build_autoencoder, build_stable_diffusion
    from skygen.seeding import Seeds

    folder = tmp_path_factory.mktemp("diffusion") / "stable_diffusion"
    build_autoencoder(folder.with_name("autoencoder"), Seeds(7))
    build_stable_diffusion(folder, folder.with_name("autoencoder"), skyclip_folder, Seeds(7))
    return folder


@pytest.fixture(scope="session")
def pipeline_folders(stable_diffusion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small pipeline of each family, by its name, which is only read."""
    from models.diffusions.small_pipelines import build_pipelines

    return build_pipelines(tmp_path_factory.mktemp("pipelines"), stable_diffusion_folder)


@pytest.fixture(scope="session")
def accelerator() -> Any:
    """One process on the CPU."""
    from accelerate import Accelerator

    return Accelerator(cpu=True)
