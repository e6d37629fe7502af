"""Writes a Qwen2.5-VL with random weights and 150 thousand parameters, tokenizer and processor included."""

from __future__ import annotations

from pathlib import Path

from skygen.miniature.vocabulary import OVERHEAD_WORDS
from skygen.seeding import Seeds

WORDS = f"a an and are at by describe image in is it of on one overhead sentence some the there three two with {OVERHEAD_WORDS}"
SPECIALS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
    "{% for part in turn.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path) -> None:
    """Write the model: two layers each, places of 28 pixels, windows of two by two places.

    Whole words of overhead captions are single tokens with the space before them; bytes spell everything else.
    """
    from transformers import (
        GenerationConfig,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2Tokenizer,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = Qwen2Tokenizer().train_new_from_iterator([" ".join(WORDS.split())] * 3, vocab_size=1000, show_progress=False)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": list(SPECIALS)})
    number = dict(zip(SPECIALS, tokenizer.convert_tokens_to_ids(list(SPECIALS)), strict=True))
    text = {
        "vocab_size": len(tokenizer) + 3,  # as in the real one, more rows than tokens
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        "eos_token_id": number["<|im_end|>"],
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": 32,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=number["<|image_pad|>"],
        video_token_id=number["<|video_pad|>"],
        vision_start_token_id=number["<|vision_start|>"],
        vision_end_token_id=number["<|vision_end|>"],
        tie_word_embeddings=False,  # tied and untrained it would repeat one word
        initializer_range=0.2,
    )
    Seeds(7).reset_global("qwen2_5_vl")
    network = Qwen2_5_VLForConditionalGeneration(config)
    network.generation_config = GenerationConfig(
        eos_token_id=[number["<|im_end|>"], tokenizer.pad_token_id], pad_token_id=tokenizer.pad_token_id
    )
    network.save_pretrained(folder)
    Qwen2_5_VLProcessor(Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=TEMPLATE).save_pretrained(
        folder
    )
