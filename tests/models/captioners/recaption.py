"""A program of its own: caption with transformers and peft alone, every family in turn."""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, Idefics3Processor

CHATTING = {"idefics3", "smolvlm", "qwen2_5_vl"}


def main(job: Path) -> None:
    """Read ``job.json``, a list of base, adapter and image, and write ``captions.json``: the base's caption, the adapter's."""
    captions = []
    for base, adapter, image in json.loads((job / "job.json").read_text()):
        prompt = json.loads((Path(adapter) / "skygen.json").read_text())["prompt"]
        network = AutoModelForImageTextToText.from_pretrained(base).eval()
        plain = caption(network, base, image, prompt)
        captions.append([plain, caption(PeftModel.from_pretrained(network, adapter).eval(), base, image, prompt)])
    (job / "captions.json").write_text(json.dumps(captions))


@torch.inference_mode()
def caption(network: torch.nn.Module, base: str, image: str, prompt: str) -> str:
    """Caption greedily, with the family's documented inputs."""
    kind = AutoConfig.from_pretrained(base).model_type
    processor = (Idefics3Processor if kind == "smolvlm" else AutoProcessor).from_pretrained(base)
    picture = Image.open(image)
    if kind in CHATTING:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text], images=[picture], add_special_tokens=False, return_tensors="pt")
    elif kind in ("paligemma", "florence2"):
        inputs = processor(text=("<image>" if kind == "paligemma" else "") + prompt, images=picture, return_tensors="pt")
    else:
        inputs = {"pixel_values": processor.image_processor(picture, return_tensors="pt").pixel_values}
    options = {"forced_bos_token_id": network.config.text_config.bos_token_id} if kind == "florence2" else {}
    written = network.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=8, **options)
    answer = written[:, inputs["input_ids"].shape[1] :] if kind in CHATTING | {"paligemma"} else written
    if kind == "blip-2":  # its places for the image come along
        answer = written[:, network.config.num_query_tokens :]
    return processor.tokenizer.batch_decode(answer, skip_special_tokens=True)[0].strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
