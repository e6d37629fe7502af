"""A program of its own: load saved adapters with plain pipelines of diffusers, skygen left out, and note what they draw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline


def main(job: Path) -> None:
    outputs: dict[str, np.ndarray] = {}
    for name, (base, adapter, prompt, seed) in json.loads((job / "job.json").read_text()).items():
        pipeline = DiffusionPipeline.from_pretrained(base, safety_checker=None)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.load_lora_weights(adapter)
        network = getattr(pipeline, "transformer", None) or pipeline.unet
        generator = torch.Generator().manual_seed(seed)
        outputs[name] = np.asarray(pipeline(prompt, generator=generator, num_inference_steps=3, guidance_scale=5.0).images[0])
        adapted = [bool(tensor.any()) for key, tensor in network.named_parameters() if "lora_B" in key]
        outputs[f"{name}-loaded"] = np.array(sum(adapted))
        for part in ("text_encoder", "text_encoder_2"):
            encoder = getattr(pipeline, part, None)
            if encoder is not None:
                states = encoder.eval()(torch.arange(1, 9)[None], output_hidden_states=True).hidden_states[-1]
                outputs[f"{name}-{part}"] = states.detach().numpy()
    np.savez(job / "outputs.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
