"""Tiny random BLIP-2s of transformers' own classes, one with an OPT and one with a T5, and tokenizers of overhead words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skygen.miniature.vocabulary import LETTERS, OVERHEAD_WORDS
from skygen.seeding import Seeds

RESOLUTION = 28
PATCH = 7
QUESTIONS = 4
WORDS = 640
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4}


def build(folder: Path) -> None:
    """Write one with an OPT: hidden 32 and 2 layers in each part, squares of 28, 4 questions; a line break ends captions."""
    tokenizer = byte_pair_tokenizer()
    text = {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "max_position_embeddings": 256,
        "init_std": 0.2,  # wide: images and words tell
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.convert_tokens_to_ids("Ċ"),  # the byte of a line break, as in the published models
        **LAYERS,
    }
    write(folder, text, tokenizer)


def build_with_t5(folder: Path) -> None:
    """Write one with a T5 of the same size."""
    tokenizer = unigram_tokenizer()
    text = {
        "model_type": "t5",
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.5,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.eos_token_id,  # as in the published models
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    write(folder, text, tokenizer)


def write(folder: Path, text: dict[str, Any], tokenizer: Any) -> None:
    """Write network and processor with a language model of this config."""
    import torch
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    square = {"height": RESOLUTION, "width": RESOLUTION}
    processor = Blip2Processor(BlipImageProcessor(size=square), tokenizer, num_query_tokens=QUESTIONS)
    size = {"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.2, **LAYERS}
    config = Blip2Config(
        vision_config={"image_size": RESOLUTION, "patch_size": PATCH, **size},
        qformer_config={"vocab_size": 8, **size},
        text_config=text | {"vocab_size": len(tokenizer)},
        num_query_tokens=QUESTIONS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=0.2,
    )
    Seeds(0).reset_global("blip-2")
    network = Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(network.query_tokens)  # else all of them ask the same
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


def byte_pair_tokenizer() -> Any:
    """Return a GPT-2 tokenizer as OPT has it, of 640 pieces: the bytes, and what overhead words are made of."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import GPT2Tokenizer

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator([f" {word}" for word in OVERHEAD_WORDS.split()], trainer)
    learnt = json.loads(trained.to_str())["model"]
    tokenizer = GPT2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        unk_token="<unk>",
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def unigram_tokenizer() -> Any:
    """Return a T5 tokenizer of overhead words and, for all others, letters."""
    from transformers import T5Tokenizer

    words = dict.fromkeys(("a", "and", "of", "photo", "the", "three", *OVERHEAD_WORDS.split()))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -4.0) for word in words] + [(letter, -9.0) for letter in (*LETTERS, "<", ">", "/")]
    return T5Tokenizer(vocab=pieces, extra_ids=0)
