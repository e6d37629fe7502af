"""What transformers' own processors make of pictures, prompt and captions, in the way that each family documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from models.captioners.small_networks import pictures
from torch import Tensor

from skygen.models.captioner import Captioner
from skygen.models.captioners.family import IGNORED


def own_inputs(captioner: Captioner, captions: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return what the network itself reads of three pictures of its size: for ``generate``, or with captions and labels."""
    return dict(READERS[captioner.network.config.model_type](captioner, captions))


def read_with(captioner: Captioner, **words: Any) -> dict[str, Any]:
    """Let the whole processor read pictures and words."""
    return dict(captioner.processor(images=pictures(captioner.resolution), return_tensors="pt", **words))


def seen_by_a_vit(captioner: Captioner) -> dict[str, Any]:
    """Let the processor read the pictures alone, in the size that they have."""
    read = captioner.processor.image_processor
    seen = read(pictures(captioner.resolution), do_resize=False, do_center_crop=False, return_tensors="pt")
    return {"pixel_values": seen.pixel_values, "interpolate_pos_encoding": True}


def spelled(captioner: Captioner, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return tokens and mask."""
    words = captioner.processor.tokenizer(texts, padding=True, return_tensors="pt")
    return words.input_ids, words.attention_mask


def learnt(tokens: Tensor, mask: Tensor, before: int) -> Tensor:
    """Return as labels what comes after the first tokens."""
    labels = tokens.masked_fill(mask == 0, IGNORED)
    labels[:, :before] = IGNORED
    return labels


def words_of(captioner: Captioner, prompt: str) -> int:
    """Count the tokens of a prompt."""
    return len(captioner.processor.tokenizer(prompt, add_special_tokens=False).input_ids)


def for_blip(captioner: Captioner, captions: tuple[str, ...] | None) -> dict[str, Any]:
    seen = seen_by_a_vit(captioner)
    if captions is None:
        return seen
    tokens, mask = spelled(captioner, list(captions))
    tokens[:, 0] = captioner.network.config.text_config.bos_token_id
    return seen | {"input_ids": tokens, "attention_mask": mask, "labels": learnt(tokens, mask, 1)}


def for_blip2(captioner: Captioner, captions: tuple[str, ...] | None) -> dict[str, Any]:
    """OPT continues image and prompt, and is asked to end captions with a line break; T5 reads both in its encoder."""
    prompt, config = captioner.family.prompt, captioner.network.config
    seen = seen_by_a_vit(captioner)
    if captions is None:
        return read_with(captioner, text=[prompt] * 3) | seen
    if config.is_encoder_decoder:
        tokens, mask = spelled(captioner, list(captions))
        return read_with(captioner, text=[prompt] * 3) | seen | {"labels": learnt(tokens, mask, 0)}
    read = read_with(captioner, text=[f"{prompt} {caption}".strip() + "\n" for caption in captions], padding=True)
    before = config.num_query_tokens + 1 + words_of(captioner, prompt)
    return read | seen | {"labels": learnt(read["input_ids"], read["attention_mask"], before)}


def for_git(captioner: Captioner, captions: tuple[str, ...] | None) -> dict[str, Any]:
    prompt, seen = captioner.family.prompt, seen_by_a_vit(captioner)
    if captions is None:
        return seen | {"input_ids": spelled(captioner, [prompt] * 3)[0][:, :-1]}  # without [SEP]
    tokens, mask = spelled(captioner, [f"{prompt} {caption}" for caption in captions])
    labels = learnt(tokens, mask, 1 + words_of(captioner, prompt))
    return seen | {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def for_idefics3(captioner: Captioner, captions: tuple[str, ...] | None, **options: Any) -> dict[str, Any]:
    """Let the processor write the conversation, without or with answers; options are those of its pixels."""
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": captioner.family.prompt}]}
    turns = [[{"role": "assistant", "content": [{"type": "text", "text": caption}]}] for caption in captions or ()]

    def read(answers: list[list[Any]], opened: bool) -> dict[str, Any]:
        write = captioner.processor.apply_chat_template
        texts = [write([asked, *answer], add_generation_prompt=opened, tokenize=False) for answer in answers]
        images = captioner.processor(
            text=[text.removesuffix("\n") for text in texts],
            images=[[picture] for picture in pictures(captioner.resolution)],
            add_special_tokens=False,  # the template has written the first
            do_image_splitting=False,
            padding=True,
            padding_side="right",
            return_tensors="pt",
            **options,
        )
        return dict(images)

    before = read([[], [], []], opened=True)
    if captions is None:
        return before
    whole = read(turns, opened=False)
    return whole | {"labels": learnt(whole["input_ids"], whole["attention_mask"], before["input_ids"].shape[1])}


def for_paligemma(captioner: Captioner, captions: tuple[str, ...] | None, **options: Any) -> dict[str, Any]:
    """Let the processor write prefix and suffix; options are those of its pixels."""
    suffix = None if captions is None else list(captions)
    text = [f"<image>{captioner.family.prompt}"] * 3
    inputs = read_with(captioner, text=text, suffix=suffix, padding=True, padding_side="right", **options)
    if captions is None:
        assert not inputs["token_type_ids"].any()
        del inputs["labels"]
    inputs["token_type_ids"][inputs["attention_mask"] == 0] = 1  # the tokenizer calls padding prefix; nothing may see it
    return inputs


def for_qwen(captioner: Captioner, captions: tuple[str, ...] | None) -> dict[str, Any]:
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": captioner.family.prompt}]}]
    write = captioner.processor.apply_chat_template
    if captions is None:
        return read_with(captioner, text=[write(turns, add_generation_prompt=True)] * 3)
    answers = [{"role": "assistant", "content": [{"type": "text", "text": caption}]} for caption in captions]
    texts = [write([*turns, answer]) for answer in answers]
    read = read_with(captioner, text=texts, padding=True, padding_side="right")
    before = read_with(captioner, text=[write(turns, add_generation_prompt=True)] * 3)["input_ids"].shape[1]
    labels = learnt(read["input_ids"], read["attention_mask"], before)
    lengths = read["attention_mask"].sum(dim=1)
    labels[torch.arange(3), lengths - 1] = IGNORED  # the line feed after the turn
    return read | {"labels": labels}


def for_florence2(captioner: Captioner, captions: tuple[str, ...] | None) -> dict[str, Any]:
    """Transformers shifts labels from its decoder's start token, and <s> is one of them; here it is given."""
    read = read_with(captioner, text=[captioner.family.prompt] * 3)
    if captions is None:
        return read
    tokens, mask = spelled(captioner, list(captions))
    start = torch.full((3, 1), captioner.network.config.text_config.decoder_start_token_id)
    given = torch.cat([start, tokens[:, :-1]], dim=1)
    return read | {"decoder_input_ids": given, "labels": learnt(tokens, mask, 1)}


READERS: dict[str, Callable[..., dict[str, Any]]] = {
    "blip": for_blip,
    "blip-2": for_blip2,
    "git": for_git,
    "idefics3": for_idefics3,
    "smolvlm": for_idefics3,
    "paligemma": for_paligemma,
    "qwen2_5_vl": for_qwen,
    "florence2": for_florence2,
}
