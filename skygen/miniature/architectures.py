"""The miniature models before training: real classes, small sizes, random weights.

Together they hold about 12 million parameters, 25 MB in half precision: what two CPU cores can train in an afternoon and a
package can carry.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skygen.miniature.vocabulary import CONTEXT, VOCABULARY, clip_tokenizer, wordpiece_tokenizer
from skygen.seeding import Seeds

RESOLUTION = 64
LATENT_CHANNELS = 8
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS = 128, 4, 4
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def build_skyclip(folder: Path, seeds: Seeds) -> None:
    """Write an untrained open_clip model: a ViT over 8-pixel patches and a text transformer, ``local-dir:`` layout."""
    import open_clip
    from safetensors.torch import save_file

    config = {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": RESOLUTION, "layers": 4, "width": 160, "head_width": 32, "patch_size": 8},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": VOCABULARY,
                "width": TEXT_WIDTH,
                "heads": TEXT_HEADS,
                "layers": TEXT_LAYERS,
                "hf_tokenizer_name": "local",
                "tokenizer_kwargs": {"clean": "lower"},
            },
        },
        "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "squash"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    clip_tokenizer().save_pretrained(folder)
    seeds.reset_global("architecture", "skyclip")
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def build_captioner(folder: Path, seeds: Seeds) -> None:
    """Write an untrained BLIP."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    tokenizer = wordpiece_tokenizer()
    vision = {
        "hidden_size": 160,
        "intermediate_size": 640,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "image_size": RESOLUTION,
        "patch_size": 8,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 160,
        "encoder_hidden_size": 160,
        "intermediate_size": 640,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "max_position_embeddings": CONTEXT,
        "label_smoothing": 0.0,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    seeds.reset_global("architecture", "captioner")
    network = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text, projection_dim=160))
    size = {"height": RESOLUTION, "width": RESOLUTION}
    images = BlipImageProcessor(size=size, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD))
    network.save_pretrained(folder)
    BlipProcessor(images, tokenizer).save_pretrained(folder)


def build_judge(folder: Path, class_names: Sequence[str], seeds: Seeds) -> None:
    """Write an untrained ResNet classifier of a quarter of a million parameters."""
    from transformers import BitImageProcessor, ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 96],
        depths=[1, 1, 1],
        layer_type="basic",
        num_labels=len(class_names),
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
    )
    seeds.reset_global("architecture", "judge")
    ResNetForImageClassification(config).save_pretrained(folder)
    size = {"height": RESOLUTION, "width": RESOLUTION}
    BitImageProcessor(size=size, do_center_crop=False, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD)).save_pretrained(
        folder
    )


def build_autoencoder(folder: Path, seeds: Seeds) -> None:
    """Write an untrained ``AutoencoderKL``.

    Eight latent channels, not Stable Diffusion's four: a linear code of four cannot hold the fabricated tiles, with their
    lines of one pixel, at more than 24 dB (principal components of 4-pixel patches), one of eight holds them at 29 dB.
    """
    from diffusers import AutoencoderKL

    seeds.reset_global("architecture", "autoencoder")
    AutoencoderKL(
        sample_size=RESOLUTION,
        block_out_channels=(32, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
    ).save_pretrained(folder)


def build_stable_diffusion(folder: Path, autoencoder: Path, text_tower: Path, seeds: Seeds) -> None:
    """Write a Stable Diffusion whose text encoder is SkyCLIP's, as the original's is CLIP's; its UNet is untrained.

    Args:
        folder: where the pipeline goes.
        autoencoder: folder of the trained autoencoder.
        text_tower: folder of the trained SkyCLIP-miniature.
        seeds: the initial weights follow from them.
    """
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel

    seeds.reset_global("architecture", "stable_diffusion")
    network = UNet2DConditionModel(
        sample_size=RESOLUTION // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,  # heads, in spite of its name; few and wide ones are the faster on a CPU
        norm_num_groups=16,
    )
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # diffusers warns about 0; trailing spacing does not use it
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(autoencoder, use_safetensors=True),
        text_encoder=clip_text_model(text_tower),
        tokenizer=clip_tokenizer(),
        unet=network,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def clip_text_model(folder: Path) -> Any:
    """Turn the text tower of an open_clip model into transformers' ``CLIPTextModel``: same weights, other names."""
    import open_clip
    from transformers import CLIPTextConfig, CLIPTextModel

    tower = open_clip.create_model(f"local-dir:{folder}").state_dict()
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        max_position_embeddings=CONTEXT,
        hidden_act="gelu",
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
    )
    model = CLIPTextModel(config)
    renamed = {
        "embeddings.token_embedding.weight": tower["token_embedding.weight"],
        "embeddings.position_embedding.weight": tower["positional_embedding"],
        "final_layer_norm.weight": tower["ln_final.weight"],
        "final_layer_norm.bias": tower["ln_final.bias"],
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for layer in range(TEXT_LAYERS):
        source, target = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            for old, new in (*parts.items(), ("attn.out_proj", "self_attn.out_proj")):
                renamed[f"{target}.{new}.{kind}"] = tower[f"{source}.{old}.{kind}"]
            joint = tower[f"{source}.attn.in_proj_{kind}"].chunk(3)
            for name, tensor in zip(("q_proj", "k_proj", "v_proj"), joint, strict=True):
                renamed[f"{target}.self_attn.{name}.{kind}"] = tensor
    model.load_state_dict(renamed, strict=True)
    return model
