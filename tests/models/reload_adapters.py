"""A program of its own: load saved adapters with their ecosystems' own loaders, skygen left out, and note what comes out."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file
from transformers import BlipForConditionalGeneration


def main(job: Path) -> None:
    names = json.loads((job / "job.json").read_text())
    inputs = {name: torch.from_numpy(array) for name, array in np.load(job / "inputs.npz").items()}
    outputs: dict[str, np.ndarray] = {}
    for preset in names["diffusion_presets"]:
        pipeline = StableDiffusionPipeline.from_pretrained(names["stable_diffusion"], safety_checker=None)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.load_lora_weights(job / f"diffusion-{preset}")
        outputs |= {f"diffusion-{preset}-{k}": v for k, v in run_diffusion(pipeline, inputs).items()}
    for preset in names["captioner_presets"]:
        base = BlipForConditionalGeneration.from_pretrained(names["captioner"])
        network = PeftModel.from_pretrained(base, job / f"captioner-{preset}").eval()
        outputs |= {f"captioner-{preset}-{k}": v for k, v in run_captioner(network, inputs).items()}
        file = load_file(job / f"captioner-{preset}" / "adapter_model.safetensors")
        outputs[f"captioner-{preset}-file"] = np.array(sum("lora_B" in name for name in file))
    np.savez(job / "outputs.npz", **outputs)


def count_second(network: torch.nn.Module) -> np.ndarray:
    """Count the lora_B that hold something: they begin at zero, so one that was not loaded is zero."""
    return np.array(sum(bool(tensor.any()) for name, tensor in network.named_parameters() if "lora_B" in name))


@torch.inference_mode()
def run_diffusion(pipeline: StableDiffusionPipeline, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    prediction = pipeline.unet(inputs["latents"], inputs["timesteps"], inputs["hidden"]).sample
    generator = torch.Generator().manual_seed(3)
    image = pipeline("a harbor", generator=generator, num_inference_steps=2, height=64, width=64).images[0]
    return {"prediction": prediction.numpy(), "image": np.asarray(image), "loaded": count_second(pipeline.unet)}


@torch.inference_mode()
def run_captioner(network: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    logits = network(pixel_values=inputs["pixels"], input_ids=inputs["tokens"]).logits
    written = network.generate(pixel_values=inputs["pixels"], num_beams=3, max_new_tokens=8)
    return {"logits": logits.numpy(), "written": written.numpy(), "loaded": count_second(network)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
