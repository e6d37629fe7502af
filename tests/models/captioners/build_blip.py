"""A tiny random BLIP of transformers' own classes, with the miniature's tokenizer."""

from __future__ import annotations

from pathlib import Path

from skygen.miniature.vocabulary import wordpiece_tokenizer
from skygen.seeding import Seeds

RESOLUTION = 32
PATCH = 8
PLACES = (RESOLUTION // PATCH) ** 2 + 1  # patches, and one for the whole image


def build(folder: Path) -> None:
    """Write an untrained model: hidden 32 and 2 layers in tower and decoder, squares of 32 pixels."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    tokenizer = wordpiece_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": 32,
        "max_position_embeddings": 128,
        "label_smoothing": 0.0,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    wide = {"initializer_range": 0.2}  # images and words tell; of itself transformers draws the tower from 1e-10
    vision = {"image_size": RESOLUTION, "patch_size": PATCH}
    config = BlipConfig(vision_config=vision | size | wide, text_config=text | size | wide, projection_dim=32, **wide)
    Seeds(0).reset_global("blip")
    network = BlipForConditionalGeneration(config)
    square = {"height": RESOLUTION, "width": RESOLUTION}
    network.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size=square), tokenizer).save_pretrained(folder)
