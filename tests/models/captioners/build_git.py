"""A tiny random GIT of transformers' own classes, with a BERT tokenizer of overhead words."""

from __future__ import annotations

from pathlib import Path

from skygen.miniature.vocabulary import LETTERS, OVERHEAD_WORDS, SIGNS
from skygen.seeding import Seeds

RESOLUTION = 32
PATCH = 8
PLACES = (RESOLUTION // PATCH) ** 2 + 1  # patches, and one for the whole image
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SMALL_WORDS = ("a", "an", "and", "at", "by", "in", "is", "many", "near", "of", "on", "photo", "some", "the", "there", "three")


def build(folder: Path) -> None:
    """Write an untrained model: tower of 48 channels, decoder of 32, 2 layers each, squares of 32 pixels."""
    from transformers import BertTokenizer, CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    words = (*SPECIALS, *SIGNS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *SMALL_WORDS, *OVERHEAD_WORDS.split())
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=512)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}  # wide: images and words tell
    vision = {"hidden_size": 48, "intermediate_size": 96, "image_size": RESOLUTION, "patch_size": PATCH, **layers}
    config = GitConfig(
        vision_config=vision,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        max_position_embeddings=128,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **layers,
    )
    Seeds(0).reset_global("git")
    network = GitForCausalLM(config)
    square = {"height": RESOLUTION, "width": RESOLUTION}
    images = CLIPImageProcessor(size={"shortest_edge": RESOLUTION}, crop_size=square)
    network.save_pretrained(folder)
    GitProcessor(images, tokenizer).save_pretrained(folder)
