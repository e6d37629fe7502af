"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.contents import contents, size_on_disk
from faults.figures import PROPERTY, Figures
from faults.forking import Forks
from faults.programs import Program, Unbroken, World
from recipes.processes import end_all


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Tell figures for the table at the end: what was tried, how often, and what became of it."""

    def tell(what: str, **numbers: int) -> None:
        request.node.user_properties.append((PROPERTY, (what, {name: int(number) for name, number in numbers.items()})))

    return tell


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    """End what a test that failed has left running."""
    yield
    end_all()


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """One process that has imported everything, to fork programs from."""
    server = Forks(tmp_path_factory.mktemp("said"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def small_world(
    world: Path,
    captioner_folder: Path,
    stable_diffusion_folder: Path,
    skyclip_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    """What the programs read: 60 pairs, and models of the miniature's size with random weights."""
    return World(world, captioner_folder, stable_diffusion_folder, skyclip_folder, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def run_unbroken(
    small_world: World, forks: Forks, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Program], Unbroken]:
    """Run a program that nothing befalls, once for all tests of a process; what it leaves is what the others must come to."""
    done: dict[str, Unbroken] = {}

    def run(name: str, program: Program) -> Unbroken:
        if name not in done:
            root = tmp_path_factory.mktemp("unbroken") / "root"  # the last name of a path may stand in what is written
            program.prepare(small_world, root, forks)
            before = size_on_disk(root)
            fork = forks.start(program.words(small_world, root))
            fork.finish()
            done[name] = Unbroken(contents(root), fork.seconds, size_on_disk(root) - before)
        return done[name]

    return run
