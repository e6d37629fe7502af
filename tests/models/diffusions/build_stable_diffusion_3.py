"""A tiny random Stable Diffusion 3.5 of diffusers' own classes: the parts of the published one, 32 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.diffusions.build_stable_diffusion_xl import WIDTH, clip_config

from skygen.miniature.vocabulary import LETTERS, OVERHEAD_WORDS, clip_tokenizer
from skygen.seeding import Seeds

RESOLUTION = 32
JOINT = 96  # wider than both CLIPs together, as in the published model, so that these are padded


def build(folder: Path, *, with_t5: bool = True, **scheduler: Any) -> None:
    """Write the pipeline, with its T5 or without; ``scheduler`` changes the config of its scheduler."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

    Seeds(0).reset_global("stable_diffusion_3")
    network = SD3Transformer2DModel(
        sample_size=RESOLUTION // 2,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=JOINT,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    autoencoder = AutoencoderKL(
        sample_size=RESOLUTION,
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=16,
        norm_num_groups=8,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    t5 = {"d_model": JOINT, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.5}
    tokenizer = unigram_tokenizer()
    StableDiffusion3Pipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | scheduler)),
        vae=autoencoder,
        text_encoder=CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config()),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=T5EncoderModel(T5Config(vocab_size=len(tokenizer), **t5)) if with_t5 else None,
        tokenizer_3=tokenizer if with_t5 else None,
    ).save_pretrained(folder)


def unigram_tokenizer() -> Any:
    """Return a T5 tokenizer of overhead words and, for all others, letters."""
    from transformers import T5Tokenizer

    words = dict.fromkeys(("a", "and", "in", "of", "the", "two", *OVERHEAD_WORDS.split()))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -4.0) for word in words] + [(letter, -9.0) for letter in LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0)
