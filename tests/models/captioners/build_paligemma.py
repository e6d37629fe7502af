"""Tiny random models of the family PaliGemma: one with Gemma and one with Gemma 2, of transformers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skygen.miniature.vocabulary import OVERHEAD_WORDS
from skygen.seeding import Seeds

RESOLUTION = 28
PATCH = 7
PLACES = (RESOLUTION // PATCH) ** 2
WORDS = 700
SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def build(folder: Path) -> None:
    """Write a PaliGemma."""
    build_version(folder, 1)


def build_second(folder: Path) -> None:
    """Write a PaliGemma 2: Gemma 2's soft caps, and a sliding window shorter than the prefix in every second layer."""
    build_version(folder, 2)


def build_version(folder: Path, version: int) -> None:
    """Write an untrained model: hidden 32 and 2 layers in tower and decoder, squares of 28 pixels, 16 places an image."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor, SiglipImageProcessor

    image = SiglipImageProcessor(
        size={"height": RESOLUTION, "width": RESOLUTION}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
    )
    image.image_seq_length = PLACES
    processor = PaliGemmaProcessor(image, sentence_piece_tokenizer())
    tokenizer = processor.tokenizer
    size = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4}
    text = {
        "model_type": "gemma",
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": len(tokenizer) if version == 2 else int(processor.image_token_id),  # the image's token is outside in 1
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,
    }
    if version == 2:
        text |= {"model_type": "gemma2", "sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
        text |= {"query_pre_attn_scalar": 8}
    vision = {"model_type": "siglip_vision_model", "image_size": RESOLUTION, "patch_size": PATCH, "vision_use_head": False}
    config = PaliGemmaConfig(
        vision_config={**size, **vision},
        text_config={**size, **text},
        image_token_index=int(processor.image_token_id),
        projection_dim=32,
        hidden_size=32,
        initializer_range=0.2,
    )
    Seeds(7).reset_global("architecture", "paligemma", version)
    network = PaliGemmaForConditionalGeneration(config)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


def sentence_piece_tokenizer() -> Any:
    """Return a Gemma tokenizer whose merges were learned on words of captions, with bytes for what they cannot spell."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer

    learned = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    learned.normalizer = normalizers.Replace(" ", "▁")
    learned.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    sentences = (f"caption en a {word} and some {word}" for word in OVERHEAD_WORDS.split())
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS + len(BYTES),
        special_tokens=[*SPECIALS, *BYTES],
        initial_alphabet=["\n", *"abcdefghijklmnopqrstuvwxyz0123456789.,▁"],
        show_progress=False,
    )
    learned.train_from_iterator(sentences, trainer)
    model = json.loads(learned.to_str())["model"]
    return GemmaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
