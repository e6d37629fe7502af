"""Writes a Florence-2 with random weights and 120 thousand parameters, tokenizer and processor included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skygen.miniature.vocabulary import OVERHEAD_WORDS
from skygen.seeding import Seeds

WORDS = f"a an and are at by describe does image in is it of on one some the there three two what with {OVERHEAD_WORDS}"
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


def build(folder: Path) -> None:
    """Write the model: a DaViT that sees 64 pixels as 8 by 8 patches in windows of 3, and a BART of two and two layers.

    Whole words of overhead captions are single tokens with the space before them; bytes spell everything else.
    """
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        GenerationConfig,
    )

    tokenizer = _tokenizer()
    text = BartConfig(
        vocab_size=len(tokenizer) + 3,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=128,
        init_std=0.2,
    )
    vision = {
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [16, 32],
        "num_heads": [2, 4],
        "num_groups": [2, 4],
        "window_size": 3,
        "projection_dim": 32,
        "max_position_embeddings": 12,
        "initializer_range": 0.2,
    }
    config = Florence2Config(text_config=text.to_dict(), vision_config=vision, image_token_id=tokenizer.image_token_id)
    Seeds(7).reset_global("florence2")
    network = Florence2ForConditionalGeneration(config)
    network.generation_config = GenerationConfig(
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        no_repeat_ngram_size=3,
    )
    network.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    images = CLIPImageProcessor(
        size=size, crop_size=size, do_center_crop=False, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    images.image_seq_length = 65
    Florence2Processor(images, tokenizer).save_pretrained(folder)


def _tokenizer() -> Any:
    """Return BART's tokenizer, its special tokens where BART has them."""
    from transformers import BartTokenizer

    trained = BartTokenizer().train_new_from_iterator([" ".join(WORDS.split())] * 3, vocab_size=1000, show_progress=False)
    pieces = json.loads(trained.backend_tokenizer.to_str())["model"]
    ranked = sorted(pieces["vocab"], key=pieces["vocab"].__getitem__)
    vocabulary = [*SPECIALS, *(piece for piece in ranked if piece not in {*SPECIALS, "<mask>"})]
    return BartTokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)},
        merges=[tuple(merge) for merge in pieces["merges"]],
        extra_special_tokens={"image_token": "<image>"},
    )
