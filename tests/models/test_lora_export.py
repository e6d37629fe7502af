"""What is exported does what the original does, for a reader that knows nothing of skygen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from skygen.errors import ConfigError, DataError, StorageError
from skygen.models import lora_export
from skygen.models.adapters import LoraSettings, WholeModel
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.unet import LORA_PRESETS
from skygen.models.kohya import LoraModule, describe_for_kohya, name_for_kohya, read_lora, to_kohya
from skygen.models.lora_export import export_lora, find_base
from skygen.seeding import Seeds

LORA = {"rank": 3, "lora_alpha": 7}  # unequal: a loader that lost alpha would scale by 1
CASES = [
    ("default", False, "kohya"),
    ("attention", True, "kohya"),
    ("attention_ff", False, "kohya"),
    ("attention_ff_conv", False, "kohya"),
    ("attention_ff_conv", True, "kohya"),
    ("attention", False, "diffusers"),
    ("attention_ff_conv", True, "diffusers"),
]
SDXL = {
    "addition_embed_type": "text_time",
    "layers_per_block": 2,
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}


def save_adapter(base: Path, folder: Path, targets: str = "attention", **settings: Any) -> Path:
    """Save an adapter with an effect: each value is moved away from what it begins with."""
    adapter = Diffusion.load(str(base)).attach(LoraSettings(targets=targets, **{**LORA, **settings}), Seeds(1))
    assert not isinstance(adapter, WholeModel)
    for name, parameter in adapter.parameters.items():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=Seeds(2).generator(name)), alpha=0.05)
    adapter.save(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(stable_diffusion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(stable_diffusion_folder, tmp_path_factory.mktemp("run") / "harbors" / "adapter")


@torch.no_grad()
def predict(base: Path, load: Callable[[Any], None] | None = None) -> torch.Tensor:
    diffusion = Diffusion.load(str(base))
    if load is not None:
        load(diffusion.pipeline)
    generator = Seeds(9).generator("inputs")
    latents, hidden = torch.randn((2, 8, 16, 16), generator=generator), torch.randn((2, 64, 128), generator=generator)
    prediction: torch.Tensor = diffusion.network.eval()(latents, torch.tensor([3, 700]), hidden).sample
    return prediction


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


def test_every_preset_is_looked_at() -> None:
    assert sorted({targets for targets, _, _ in CASES}) == sorted(LORA_PRESETS)


@pytest.mark.parametrize(("targets", "use_rslora", "form"), CASES)
def test_diffusers_loads_the_file_to_the_same_outputs(
    targets: str, use_rslora: bool, form: Any, stable_diffusion_folder: Path, tmp_path: Path
) -> None:
    folder = save_adapter(stable_diffusion_folder, tmp_path / "run" / "adapter", targets, use_rslora=use_rslora)
    done = export_lora(folder, form, base=str(stable_diffusion_folder))
    assert done.path == tmp_path / "run" / ("run.safetensors" if form == "kohya" else "run.diffusers.safetensors")
    assert (done.size, done.norm_change) == (done.path.stat().st_size, None)
    original = predict(stable_diffusion_folder, lambda pipeline: pipeline.load_lora_weights(str(folder)))
    exported = predict(stable_diffusion_folder, lambda pipeline: pipeline.load_lora_weights(str(done.path)))
    plain = predict(stable_diffusion_folder)
    assert (exported - original).abs().max() <= 1e-5
    assert done.difference == done.rounding <= 1e-5
    assert (original - plain).abs().max() > 0.01 < done.effect
    tensors = load_file(done.path)
    assert done.modules == sum(name.endswith((".lora_down.weight", ".lora_A.weight")) for name in tensors) >= 16
    if form == "kohya":
        alphas = [float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")]
        assert alphas == pytest.approx([7 * 3**0.5 if use_rslora else 7] * done.modules)
        assert len(tensors) == 3 * done.modules


def test_layers_have_the_names_that_other_programs_look_for(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(stable_diffusion_folder, tmp_path / "adapter", "attention_ff_conv")
    names = load_file(export_lora(folder, "kohya", base=str(stable_diffusion_folder)).path)
    expected = {
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight": (3, 96),
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_up.weight": (96, 3),
        "lora_unet_up_blocks_0_attentions_1_transformer_blocks_0_ff_net_0_proj.alpha": (),
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (3, 96, 1, 1),
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": (3, 64, 3, 3),
        "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": (64, 3, 1, 1),
    }
    assert {name: tuple(names[name].shape) for name in expected} == expected
    assert all(name.startswith("lora_unet_") and name.count(".") in (1, 2) for name in names)


def module(part: str, name: str, alpha: float = 7.0) -> LoraModule:
    return LoraModule(part, name, torch.ones(3, 4), torch.ones(5, 3), alpha)


@pytest.mark.parametrize(
    ("part", "name", "sd", "sdxl"),
    [
        ("unet", "conv_in", "unet_conv_in", "unet_input_blocks_0_0"),
        ("unet", "down_blocks.0.resnets.1.conv1", "unet_down_blocks_0_resnets_1_conv1", "unet_input_blocks_2_0_in_layers_2"),
        ("unet", "down_blocks.0.downsamplers.0.conv", "unet_down_blocks_0_downsamplers_0_conv", "unet_input_blocks_3_0_op"),
        (
            "unet",
            "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
            "unet_down_blocks_1_attentions_0_transformer_blocks_1_attn1_to_q",
            "unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q",
        ),
        (
            "unet",
            "down_blocks.2.attentions.1.proj_in",
            "unet_down_blocks_2_attentions_1_proj_in",
            "unet_input_blocks_8_1_proj_in",
        ),
        ("unet", "mid_block.attentions.0.proj_out", "unet_mid_block_attentions_0_proj_out", "unet_middle_block_1_proj_out"),
        ("unet", "mid_block.resnets.1.conv2", "unet_mid_block_resnets_1_conv2", "unet_middle_block_2_out_layers_3"),
        (
            "unet",
            "up_blocks.0.attentions.2.transformer_blocks.9.attn2.to_out.0",
            "unet_up_blocks_0_attentions_2_transformer_blocks_9_attn2_to_out_0",
            "unet_output_blocks_2_1_transformer_blocks_9_attn2_to_out_0",
        ),
        ("unet", "up_blocks.1.upsamplers.0.conv", "unet_up_blocks_1_upsamplers_0_conv", "unet_output_blocks_5_2_conv"),
        (
            "unet",
            "up_blocks.2.resnets.0.conv_shortcut",
            "unet_up_blocks_2_resnets_0_conv_shortcut",
            "unet_output_blocks_6_0_skip_connection",
        ),
        (
            "text_encoder",
            "encoder.layers.0.self_attn.q_proj",
            "te_text_model_encoder_layers_0_self_attn_q_proj",
            "te1_text_model_encoder_layers_0_self_attn_q_proj",
        ),
        (
            "text_encoder_2",
            "text_model.encoder.layers.31.mlp.fc1",
            "te2_text_model_encoder_layers_31_mlp_fc1",
            "te2_text_model_encoder_layers_31_mlp_fc1",
        ),
    ],
)
def test_names_of_sd_and_sdxl(part: str, name: str, sd: str, sdxl: str) -> None:
    assert name_for_kohya(module(part, name), {}) == f"lora_{sd}"
    assert name_for_kohya(module(part, name), SDXL) == f"lora_{sdxl}"


def test_a_layer_without_a_name_in_sdxl_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"^down_blocks\.0\.motion_modules\.0\.proj: a layer that Stable Diffusion XL has no "
    ):
        to_kohya([module("unet", "down_blocks.0.motion_modules.0.proj")], SDXL)


@pytest.fixture(scope="module")
def sdxl_folder(stable_diffusion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion XL with random weights."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    Seeds(3).reset_global("sdxl")
    small = Diffusion.load(str(stable_diffusion_folder)).pipeline
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32}
    text = CLIPTextConfig(vocab_size=99, **sizes)
    network = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 2),
        cross_attention_dim=64,
        attention_head_dim=(2, 4, 4),
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    folder = tmp_path_factory.mktemp("xl") / "xl"
    StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        unet=network,
        scheduler=small.scheduler,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_sdxl_with_both_text_encoders(use_dora: bool, form: Any, sdxl_folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model_state_dict

    sdxl_pipeline = Diffusion.load(str(sdxl_folder)).pipeline
    layers: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    patterns = {"rank_pattern": {"mid_block.attentions.0.proj_in": 5}, "alpha_pattern": {"mid_block.attentions.0.proj_in": 11}}
    for part, targets in {
        "unet": LORA_PRESETS["attention_ff_conv"],
        **({} if use_dora else dict.fromkeys(("text_encoder", "text_encoder_2"), r".*self_attn\..*_proj|.*\.fc1")),
    }.items():
        network = getattr(sdxl_pipeline, part)
        extra = patterns if part == "unet" else {}
        network.add_adapter(LoraConfig(r=3, lora_alpha=7, target_modules=targets, use_dora=use_dora, **extra), "made")
        for name, parameter in network.named_parameters():
            if ".made" in name:
                parameter.data += torch.randn(parameter.shape, generator=Seeds(2).generator(name)) * 0.05
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(network, adapter_name="made")
        settings[f"{part}_lora_adapter_metadata"] = {
            key: value for key, value in network.peft_config["made"].to_dict().items() if key != "target_modules"
        } | {"target_modules": targets}
    sdxl_pipeline.save_lora_weights(tmp_path / "adapter", **layers, **settings)
    done = export_lora(tmp_path / "adapter", form, base=str(sdxl_folder))
    assert done.difference <= 1e-4
    assert done.effect > 0.01
    tensors = load_file(done.path)
    assert done.modules > 100
    if form == "kohya":
        assert {name.split("_")[1] for name in tensors} == ({"unet"} if use_dora else {"unet", "te1", "te2"})
        assert use_dora == ("lora_unet_middle_block_1_proj_in.dora_scale" in tensors)
        assert tensors["lora_unet_middle_block_1_proj_in.lora_down.weight"].shape == (5, 64)
        assert float(tensors["lora_unet_middle_block_1_proj_in.alpha"]) == 11
        assert float(tensors["lora_unet_input_blocks_4_1_proj_in.alpha"]) == 7
        assert metadata_of(done.path)["ss_network_dim"] == "Dynamic"


def test_dora_is_scaled_for_each_output(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(stable_diffusion_folder, tmp_path / "adapter", "attention_ff_conv", use_dora=True)
    done = export_lora(folder, "kohya", base=str(stable_diffusion_folder))
    tensors, original = load_file(done.path), load_file(folder / "pytorch_lora_weights.safetensors")
    assert tensors["lora_unet_down_blocks_0_resnets_0_conv1.dora_scale"].shape == (64, 1, 1, 1)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj"
    scale = tensors[f"lora_unet_{name.replace('.', '_')}.dora_scale"]
    assert scale.shape == (768, 1)
    assert torch.equal(scale.flatten(), original[f"unet.{name}.lora_magnitude_vector"])
    assert done.difference <= 1e-4
    assert done.norm_change is not None
    assert done.norm_change > 0.001

    def merge(pipeline: Any) -> None:
        for down_name in [name for name in tensors if name.endswith(".lora_down.weight")]:
            stem = down_name.removesuffix(".lora_down.weight")
            (weight,) = [
                layer.weight
                for layer_name, layer in pipeline.unet.named_modules()
                if f"lora_unet_{layer_name.replace('.', '_')}" == stem
            ]
            up, down = tensors[f"{stem}.lora_up.weight"].flatten(1), tensors[down_name].flatten(1)
            moved = weight.data.flatten(1) + 7 / 3 * up @ down
            scaled = moved / moved.square().sum(1, keepdim=True).sqrt() * tensors[f"{stem}.dora_scale"].view(-1, 1)
            weight.data = scaled.view_as(weight)

    wanted = predict(stable_diffusion_folder, lambda pipeline: pipeline.load_lora_weights(str(folder)))
    assert (predict(stable_diffusion_folder, merge) - wanted).abs().max() <= 1e-4
    assert metadata_of(done.path)["ss_network_module"] == "lycoris.kohya"


@pytest.mark.parametrize(("precision", "largest"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_precision_halves_the_file(
    precision: Any, largest: float, adapter: Path, stable_diffusion_folder: Path, tmp_path: Path
) -> None:
    whole = export_lora(adapter, "kohya", tmp_path / "whole.safetensors", base=str(stable_diffusion_folder))
    half = export_lora(adapter, "kohya", tmp_path / "half.safetensors", precision=precision, base=str(stable_diffusion_folder))
    kinds = {name.split(".", 1)[1]: tensor.dtype for name, tensor in load_file(half.path).items()}
    matrices = getattr(torch, precision)
    assert kinds == {"alpha": torch.float32, "lora_down.weight": matrices, "lora_up.weight": matrices}
    assert 0 < half.rounding <= largest
    assert half.difference == whole.difference <= 1e-5
    weights = [sum(t.nbytes for name, t in load_file(d.path).items() if "weight" in name) for d in (whole, half)]
    assert weights[0] == 2 * weights[1]


def test_the_same_export_is_the_same_bytes(adapter: Path, stable_diffusion_folder: Path, tmp_path: Path) -> None:
    for form in ("kohya", "diffusers"):
        first = export_lora(adapter, form, tmp_path / "one" / "x.safetensors", base=str(stable_diffusion_folder)).path
        second = export_lora(adapter, form, tmp_path / "two" / "x.safetensors", base=str(stable_diffusion_folder)).path
        assert first.read_bytes() == second.read_bytes()
        first.unlink()
        second.unlink()


def test_the_header_says_what_is_known_and_no_more(adapter: Path, stable_diffusion_folder: Path, tmp_path: Path) -> None:
    done = export_lora(adapter, "kohya", tmp_path / "harbors.safetensors", base=str(stable_diffusion_folder))
    content = done.path.read_bytes()
    digest = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    assert metadata_of(done.path) == {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "7",
        "ss_sd_model_name": "stable_diffusion",
        "ss_output_name": "harbors",
        "ss_zero_terminal_snr": "False",
        "modelspec.title": "harbors",
        "modelspec.resolution": "64x64",
        "modelspec.prediction_type": "v",
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_model_hash": digest,
    }


@pytest.mark.parametrize(
    ("width", "prediction_type", "more", "version", "v2", "architecture"),
    [
        (768, "epsilon", {}, "sd_v1", "False", "stable-diffusion-v1/lora"),
        (1024, "epsilon", {}, "sd_v2", "True", "stable-diffusion-v2-512/lora"),
        (1024, "v_prediction", {}, "sd_v2_v", "True", "stable-diffusion-v2-768-v/lora"),
        (2048, "epsilon", SDXL, "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_published_sizes_are_called_by_their_version(
    width: int, prediction_type: str, more: dict[str, Any], version: str, v2: str, architecture: str
) -> None:
    unet = {"cross_attention_dim": width, "block_out_channels": [320, 640, 1280], **more}
    convolution = LoraModule("unet", "mid_block.resnets.0.conv1", torch.ones(4, 8, 3, 3), torch.ones(8, 4, 1, 1), 2.5)
    header = describe_for_kohya([convolution], unet, base="a/base", title="x", prediction_type=prediction_type, resolution=512)
    assert (header["ss_base_model_version"], header["ss_v2"]) == (version, v2)
    assert header["modelspec.architecture"] == architecture
    assert header["modelspec.sai_model_spec"] == "1.0.1"
    assert header["modelspec.implementation"].endswith("/generative-models" if more else "diffusers")
    assert json.loads(header["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "2.5"}
    assert not any("date" in key or "started" in key for key in header)


def lose_alpha(tensors: dict[str, torch.Tensor]) -> None:
    tensors |= {name: torch.tensor(3.0) for name in tensors if name.endswith(".alpha")}


def lose_a_module(tensors: dict[str, torch.Tensor]) -> None:
    stem = min(tensors).split(".")[0]
    for name in [name for name in tensors if name.startswith(f"{stem}.")]:
        del tensors[name]


def swap_two_modules(tensors: dict[str, torch.Tensor]) -> None:
    first, second = [name for name in tensors if name.endswith("attn1_to_q.lora_up.weight") and "down_blocks" in name][:2]
    tensors[first], tensors[second] = tensors[second], tensors[first]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lose_alpha,
            r"x\.safetensors: not written, for the outputs with it differ by \d\.\de-0[0-3] from those with the original;",
        ),
        (
            swap_two_modules,
            r"x\.safetensors: not written, for the outputs with it differ by \d\.\de-0[0-3] from those with the ",
        ),
        (lose_a_module, r"diffusers does not load its conversion \(only \d+ of \d+ layers\); give a LoRA that it has saved\.$"),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_wrong_conversion_is_not_left_behind(
    precision: Any,
    spoil: Callable[[dict[str, torch.Tensor]], None],
    sentence: str,
    adapter: Path,
    stable_diffusion_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def convert(modules: Any, unet: Any) -> dict[str, torch.Tensor]:
        tensors = to_kohya(modules, unet)
        spoil(tensors)
        return tensors

    monkeypatch.setattr(lora_export, "to_kohya", convert)
    with pytest.raises(StorageError, match=sentence):
        export_lora(adapter, "kohya", tmp_path / "x.safetensors", precision=precision, base=str(stable_diffusion_folder))
    assert list(tmp_path.iterdir()) == []


def test_values_beyond_half_precision_are_not_written(adapter: Path, stable_diffusion_folder: Path, tmp_path: Path) -> None:
    file = adapter / "pytorch_lora_weights.safetensors"
    tensors = load_file(file)
    first = min(tensors)
    for value, kind, sentence in (
        (1e5, ConfigError, r"^--dtype float16: cannot hold lora_unet_\S+ of \S+; take bfloat16 or float32\.$"),
        (float("nan"), DataError, r"holds NaN or infinity; the training has diverged: take an earlier adapter\.$"),
    ):
        copy = tmp_path / "copy.safetensors"
        save_file(tensors | {first: torch.full_like(tensors[first], value)}, copy, metadata_of(file))
        with pytest.raises(kind, match=sentence):
            export_lora(copy, "kohya", tmp_path / "x.safetensors", precision="float16", base=str(stable_diffusion_folder))
        assert not (tmp_path / "x.safetensors").exists()


def test_without_settings_alpha_is_the_rank(adapter: Path, tmp_path: Path) -> None:
    tensors = load_file(adapter / "pytorch_lora_weights.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors")
    modules, _ = read_lora(tmp_path / "bare.safetensors")
    assert {(module.alpha, module.rank) for module in modules} == {(3.0, 3)}
    assert len(modules) == len(tensors) // 2 >= 16


def rename(tensors: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """Name some of a file's tensors as older scripts of diffusers do."""
    older = {name: name.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.") for name in names}
    return {older.get(name, name): tensor for name, tensor in tensors.items()}


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters:RuntimeWarning")  # all that a user would see of it
def test_older_names_of_diffusers_are_read_if_all_are(adapter: Path, stable_diffusion_folder: Path, tmp_path: Path) -> None:
    tensors = load_file(adapter / "pytorch_lora_weights.safetensors")
    file = tmp_path / "older.safetensors"
    save_file(rename(tensors, list(tensors)), file)
    done = export_lora(file, "diffusers", tmp_path / "newer.safetensors", base=str(stable_diffusion_folder))
    assert done.difference <= 1e-5
    written = load_file(done.path)
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)
    save_file(rename(tensors, sorted(tensors)[-2:]), file)
    with pytest.raises(
        DataError,
        match=r"older\.safetensors: diffusers does not load it \(only 55 of 56 layers\); give a LoRA that it has saved\.$",
    ):
        export_lora(file, "kohya", tmp_path / "x.safetensors", base=str(stable_diffusion_folder))
    assert not (tmp_path / "x.safetensors").exists()


def test_what_is_no_diffusion_lora_is_said_in_a_sentence(adapter: Path, stable_diffusion_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"not this")
    with pytest.raises(
        DataError, match=r"x\.safetensors: not a readable safetensors file \(.*\); give the pytorch_lora_weights"
    ):
        read_lora(file)
    save_file({"vision.proj.weight": torch.ones(2)}, file)
    with pytest.raises(
        ConfigError, match=r"holds vision\.proj\.weight, which is no part of a diffusion LoRA in diffusers' layout"
    ):
        read_lora(file)
    save_file({"unet.conv_in.lora_A.weight": torch.ones(2, 2)}, file)
    with pytest.raises(
        DataError, match=r"unet\.conv_in has only one of the two matrices of its update; copy the file again\.$"
    ):
        read_lora(file)
    save_file({"transformer.x.lora_A.weight": torch.ones(2, 2)}, file)
    with pytest.raises(
        ConfigError, match=r"adapts a transformer, such as Stable Diffusion 3's; skygen exports LoRAs of UNets\.$"
    ):
        read_lora(file)
    save_file({}, file)
    with pytest.raises(DataError, match=r"holds no LoRA at all; give the pytorch_lora_weights\.safetensors of a run\.$"):
        read_lora(file)
    save_file({"unet.conv_in.lora_A.weight": torch.ones(2, 2)}, file, {"lora_adapter_metadata": "{"})
    with pytest.raises(DataError, match=r"the settings in its header cannot be read \(.*\); copy the file again\.$"):
        read_lora(file)
    pair = {"unet.conv_in.lora_A.weight": torch.ones(2, 2), "unet.conv_in.lora_B.weight": torch.ones(2, 2)}
    save_file(pair, file)
    with pytest.raises(ConfigError, match=r"has another size of unet\.conv_in, which \S+ adapts; give the base that it was"):
        export_lora(file, "kohya", tmp_path / "y.safetensors", base=str(stable_diffusion_folder))
    save_file({name.replace("conv_in", "nowhere"): tensor for name, tensor in pair.items()}, file)
    with pytest.raises(
        ConfigError, match=r"^--base \S+: has no unet\.nowhere, which \S+ adapts; give the base that it was trained"
    ):
        export_lora(file, "kohya", tmp_path / "y.safetensors", base=str(stable_diffusion_folder))
    kohya = export_lora(adapter, "kohya", tmp_path / "z.safetensors", base=str(stable_diffusion_folder)).path
    with pytest.raises(ConfigError, match=r"holds lora_unet_\S+, which is no part of a diffusion LoRA in diffusers' layout"):
        export_lora(kohya, "kohya", tmp_path / "y.safetensors", base=str(stable_diffusion_folder))
    assert not (tmp_path / "y.safetensors").exists()


def test_the_base_is_found_beside_the_adapter(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "adapter"
    folder.mkdir(parents=True)
    assert find_base(folder) == "miniature"
    (tmp_path / "run" / "config.yaml").write_text("model:\n  name: some/base\n")
    assert find_base(folder) == "some/base"
    (folder / "skygen.json").write_text('{"base": "the/base"}')
    assert find_base(folder) == "the/base"
