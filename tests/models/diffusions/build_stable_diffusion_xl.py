"""A tiny random Stable Diffusion XL of diffusers' own classes: the parts of the published one, 32 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skygen.miniature.vocabulary import CONTEXT, VOCABULARY, clip_tokenizer
from skygen.seeding import Seeds

RESOLUTION = 32
WIDTH = 32


def build(folder: Path, **scheduler: Any) -> None:
    """Write the pipeline; ``scheduler`` changes the config of its Euler scheduler, which is that of the published model."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    Seeds(0).reset_global("stable_diffusion_xl")
    network = UNet2DConditionModel(
        sample_size=RESOLUTION // 2,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=2 * WIDTH,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        norm_num_groups=8,
    )
    autoencoder = AutoencoderKL(
        sample_size=RESOLUTION,
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        scaling_factor=0.13025,
    )
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    StableDiffusionXLPipeline(
        vae=autoencoder,
        text_encoder=CLIPTextModel(clip_config()),
        text_encoder_2=CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=network,
        scheduler=EulerDiscreteScheduler(**(settings | {"timestep_spacing": "leading"} | scheduler)),
        add_watermarker=False,
    ).save_pretrained(folder)


def clip_config() -> Any:
    """Return the config of a CLIP text encoder of 32 channels and 3 layers."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_factor=4.0,  # wide: words tell
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
    )
