"""Tiny random models of the family Idefics3: an Idefics3 and a SmolVLM of transformers' own classes, with a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skygen.miniature.vocabulary import OVERHEAD_WORDS
from skygen.seeding import Seeds

RESOLUTION = 32
PATCH = 4
SCALE = 2
PLACES = (RESOLUTION // PATCH // SCALE) ** 2
WORDS = 640
SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)
CHAT = (
    "<|im_start|>{% for turn in messages %}{{ turn.role | capitalize }}:"
    "{% if turn.content[0].type != 'image' %} {% endif %}"
    "{% for part in turn.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build(folder: Path) -> None:
    """Write an Idefics3."""
    build_type(folder, "idefics3")


def build_smolvlm(folder: Path) -> None:
    """Write a SmolVLM."""
    build_type(folder, "smolvlm")


def build_type(folder: Path, model_type: str) -> None:
    """Write an untrained model: hidden 48 and 2 layers in tower and decoder, squares of 32 pixels, 16 places an image."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
    )

    tokenizer = byte_pair_tokenizer()
    numbers: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    configure, architecture = {
        "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
        "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
    }[model_type]
    size = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4}
    text = {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "bos_token_id": numbers["<|im_start|>"],
        "eos_token_id": numbers["<end_of_utterance>"],
        "pad_token_id": numbers["<|endoftext|>"],
        "initializer_range": 0.2,
    }
    config = configure(
        vision_config={**size, "image_size": RESOLUTION, "patch_size": PATCH, "initializer_range": 0.2},
        text_config={**size, **text},
        scale_factor=SCALE,
        image_token_id=numbers["<image>"],
        pad_token_id=numbers["<|endoftext|>"],
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    Seeds(7).reset_global("architecture", model_type)
    network = architecture(config)
    network.generation_config.eos_token_id = numbers["<end_of_utterance>"]
    network.generation_config.pad_token_id = numbers["<|endoftext|>"]
    network.save_pretrained(folder)
    image = Idefics3ImageProcessor(size={"longest_edge": RESOLUTION}, max_image_size={"longest_edge": RESOLUTION})
    Idefics3Processor(image, tokenizer, image_seq_len=PLACES, chat_template=CHAT).save_pretrained(folder)


def byte_pair_tokenizer() -> Any:
    """Return a byte-level byte-pair tokenizer, as SmolLM has one, whose merges were learned on words of captions."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Tokenizer

    learned = ByteLevelBPETokenizer()
    sentences = (f"User: Describe this overhead image. Assistant: a {word} and some {word}" for word in OVERHEAD_WORDS.split())
    learned.train_from_iterator(sentences, WORDS, min_frequency=1, special_tokens=list(SPECIALS), show_progress=False)
    tokenizer = GPT2Tokenizer(
        **_model_of(learned),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIALS if token != "<global-img>"],
    )
    tokenizer.add_tokens(["<global-img>"], special_tokens=True)
    return tokenizer


def _model_of(learned: Any) -> dict[str, Any]:
    """Return vocabulary and merges of a tokenizer of the library tokenizers."""
    import json

    model = json.loads(learned.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}
