"""``skygen export``: what it prints and leaves behind, and the codes it ends with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from skygen import cli
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner
from skygen.models.diffusion import Diffusion
from skygen.seeding import Seeds


def save_run(base: Path, folder: Path, *, use_dora: bool = False) -> Path:
    """Leave behind what a run of finetune_diffusion does: its config and its adapter."""
    trained = Diffusion.load(str(base)).attach(LoraSettings(rank=2, lora_alpha=5, use_dora=use_dora), Seeds(1))
    for name, parameter in trained.parameters.items():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=Seeds(2).generator(name)), alpha=0.05)
    trained.save(folder / "adapter")
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": {"name": folder.name}, "model": {"name": str(base)}}))
    return folder


@pytest.fixture
def run(stable_diffusion_folder: Path, tmp_path: Path) -> Path:
    return save_run(stable_diffusion_folder, tmp_path / "runs" / "harbors")


def ends_with(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["export", *map(str, words)])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_it_says_what_was_written_and_how_it_was_proven(
    run: Path, stable_diffusion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["export", str(run / "adapter"), "--format", "kohya", "--dtype", "float16"])
    written, proof, rounding = capsys.readouterr().out.splitlines()
    file = run / "harbors.safetensors"
    assert re.fullmatch(rf"{file}: kohya, float16, \d+ modules, {file.stat().st_size:,} bytes", written)
    number = r"(\d\.\de-\d\d|0\.0e\+00)"
    base = re.escape(str(stable_diffusion_folder))
    assert re.fullmatch(
        rf"on {base}: changes the outputs by up to [\d.]+, as the original does; the conversion differs from it by {number} at "
        r"most",
        proof,
    )
    assert re.fullmatch(rf"rounded to float16: the file differs from the original by {number} at most", rounding)


def test_a_file_is_replaced_only_when_that_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(run / "adapter" / "pytorch_lora_weights.safetensors"), "--format", "diffusers", "--output"]
    output = tmp_path / "x.safetensors"
    output.write_text("mine")
    assert ends_with(*words[1:], output) == 2
    assert f"skygen: --output {output}: there is a file already; give another name, or --overwrite." in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert ends_with(*words[1:], tmp_path / "x.ckpt") == 2
    assert "x.ckpt: other programs look for .safetensors; give a name that ends so.\n" in capsys.readouterr().err
    cli.main([*words, str(output), "--overwrite"])
    assert capsys.readouterr().out.startswith(f"{output}: diffusers, float32, ")
    assert output.stat().st_size > 10_000


def test_a_dora_comes_with_a_word_on_who_reads_it(
    stable_diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_run(stable_diffusion_folder, tmp_path / "decomposed", use_dora=True)
    cli.main(["export", str(folder / "adapter"), "--format", "kohya"])
    *_, last = capsys.readouterr().out.splitlines()
    assert re.match(
        r"DoRA: LyCORIS computes what was trained\. ComfyUI divides by .* off by up to \d+\.\d%\. A1111 scales", last
    )
    cli.main(["export", str(folder / "adapter"), "--format", "diffusers"])
    assert "DoRA" not in capsys.readouterr().out


def test_what_cannot_be_exported_is_said_in_one_sentence(
    run: Path, captioner_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing, broken, captioner = tmp_path / "nothing", tmp_path / "broken.safetensors", tmp_path / "captioner"
    broken.write_bytes(b"\x00" * 99)
    Captioner.load(str(captioner_folder)).attach(LoraSettings(rank=2), Seeds(1)).save(captioner)
    cases = [
        (
            nothing,
            (),
            2,
            "no pytorch_lora_weights.safetensors there; give the folder of a diffusion LoRA, such as runs/NAME/ada",
        ),
        (broken, (), 65, "not a readable safetensors file ("),
        (captioner, (), 2, "the adapter of a captioner, which PEFT loads as it is; a diffusion LoRA can be exported."),
        (run / "adapter", ("--base", nothing), 69, "no model_index.json there, so this is no stable diffusion;"),
    ]
    for adapter, more, code, sentence in cases:
        assert ends_with(adapter, "--format", "kohya", "--output", tmp_path / "y.safetensors", *more) == code
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert said[0].startswith("skygen: ")
        assert sentence in said[0]
    assert ends_with(run / "adapter", "--format", "ckpt") == 2
    assert not (tmp_path / "y.safetensors").exists()
