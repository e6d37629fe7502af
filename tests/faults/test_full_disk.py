"""A full disk: exit code 74 and one sentence, nothing half, and with more room the same command comes to the same end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faults.amounts import amount
from faults.contents import BLOCK, contents, require_same, require_whole, size_on_disk
from faults.figures import Figures
from faults.forking import Forks
from faults.programs import CHECKPOINTING_STEPS, PROGRAMS, Program, Unbroken, World

from skygen.checkpoints import Checkpoints, verify
from skygen.errors import StorageError
from skygen.seeding import Seeds

pytestmark = pytest.mark.slow
MUCH = 1 << 30


@pytest.fixture
def disk(forks: Forks, tmp_path: Path) -> Iterator[Path]:
    """A folder that can be given a disk, and is rid of it at the end."""
    if not forks.has_disks:
        pytest.skip("this machine lets its user mount nothing: `unshare --map-root-user --mount` is refused")
    place = tmp_path / "disk"
    yield place
    forks.remove_disk(place)


def require_sentence(said: str, place: Path) -> None:
    """Require that a program has ended with one sentence of skygen's that names a file or folder on that disk."""
    assert "Traceback" not in said, said
    (sentence,) = [line for line in said.splitlines() if line.startswith("skygen: ")]
    assert str(place) in sentence, sentence
    assert "free" in sentence, sentence


def fill(path: Path) -> None:
    """Take all room that a disk has left."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(BLOCK))


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_full_disk_ends_with_74_and_with_more_room_the_same_command_goes_on(
    name: str,
    small_world: World,
    forks: Forks,
    run_unbroken: Callable[[str, Program], Unbroken],
    disk: Path,
    figures: Figures,
) -> None:
    program, tries, files = PROGRAMS[name], amount(1, 6), 0
    unbroken = run_unbroken(name, program)
    draw = Seeds(3).numpy("full disk", *name.encode())
    for number in range(tries):
        seen = forks.set_disk(disk, MUCH) / str(number)
        root = disk / str(number) / "root"
        program.prepare(small_world, seen / "root", forks)
        room = int(draw.uniform(0, 1) * (unbroken.size_bytes // BLOCK)) * BLOCK  # at least a block less than is needed
        forks.set_disk(disk, max(BLOCK, size_on_disk(seen.parent) + room))
        require_sentence(forks.run(program.words(small_world, root), 74), root)
        files += require_whole(seen)
        forks.set_disk(disk, MUCH)
        forks.run(program.words(small_world, root))
        require_same(unbroken.contents, contents(seen / "root", named=root))
    figures(f"full disk: {name}", tried=tries, ended_with_74=tries, went_on=tries, files_read=files, files_found_half=0)


@pytest.mark.parametrize("name", ["finetune_diffusion", "finetune_captioner"])
def test_a_disk_that_fills_while_it_trains_leaves_the_last_good_checkpoint(
    name: str,
    small_world: World,
    forks: Forks,
    run_unbroken: Callable[[str, Program], Unbroken],
    disk: Path,
    figures: Figures,
) -> None:
    program, root = PROGRAMS[name], disk / "root"
    unbroken = run_unbroken(name, program)
    seen = forks.set_disk(disk, 32 << 20)
    checkpoints = Checkpoints(seen / "root" / "run" / "checkpoints")
    fork = forks.start(program.words(small_world, root))
    fork.wait_until(lambda: any(checkpoints.folder.glob("step-*")), "no checkpoint was saved")
    filler = seen / "filler"
    fill(filler)
    require_sentence(fork.finish(74), root)
    good = [verify(folder) for folder in checkpoints.folder.glob("step-*")]
    assert good and all(good)
    last = checkpoints.latest()
    assert last is not None and last.step % CHECKPOINTING_STEPS == 0
    filler.unlink()
    require_whole(seen)
    assert f"continues after step {last.step} of" in forks.run(program.words(small_world, root))
    require_same(unbroken.contents, contents(seen / "root", named=root))
    figures("full disk in the middle of a training", tried=1, ended_with_74=1, checkpoints_damaged=0, went_on=1)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(forks: Forks, disk: Path, figures: Figures) -> None:
    program = disk.parent / "save.py"
    program.write_text(
        "import sys, torch\nfrom pathlib import Path\nfrom skygen.checkpoints import Checkpoint, Checkpoints\n"
        "from skygen.runs import explaining\n"
        "with explaining('interrupted'):\n"
        "    for step in range(1, 4):\n"
        "        tensors = {'parameters': {'a': torch.full((step * 250_000,), float(step))}}\n"
        "        Checkpoints(Path(sys.argv[1])).save(Checkpoint(step, tensors, {}))\n"
    )
    seen = forks.set_disk(disk, 3_000_000)
    said = forks.run([str(program), str(disk / "checkpoints")], StorageError.exit_code)
    require_sentence(said, disk)
    last = Checkpoints(seen / "checkpoints").latest()
    assert last is not None and last.step == 1 and (last.tensors["parameters"]["a"] == 1).all()
    assert [path.name for path in (seen / "checkpoints").iterdir()] == ["step-000001"]
    figures(
        "full disk: a checkpoint of 2 MB on a disk of 3 MB with one of 1 MB", tried=1, ended_with_74=1, checkpoints_damaged=0
    )
