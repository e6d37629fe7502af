"""A program for `torchrun`: the contrastive loss of six pairs dealt to the processes, and the sum of their gradients."""

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed

from skygen.data.batch import Batch
from skygen.models.contrastive import ContrastiveLearner
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

CAPTIONS = ("a lake", "a river", "two tennis courts", "a forest", "a runway", "a harbour with boats")


def main(model: str, shares: list[int], out: Path) -> None:
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    scorer = Scorer.load(model)
    scorer.model.requires_grad_(True).eval()
    learner = ContrastiveLearner(scorer.model, scorer.tokenize)
    pixels = torch.rand(len(CAPTIONS), 3, 64, 64, generator=Seeds(0).generator("pixels")) * 2 - 1
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    generator = Seeds(0).generator("noise")
    loss = torch.zeros(())
    if shares[rank]:
        batch = Batch(pixels[own], CAPTIONS[own], tuple(map(str, range(shares[rank]))))
        loss = learner.loss(batch, generator).sum()
        loss.backward()
    else:
        learner.join()
    sums = {}
    for name, parameter in scorer.model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        distributed.all_reduce(gradient)
        direction = torch.randn(gradient.shape, generator=Seeds(0).generator("direction", name))
        sums[name] = [float(gradient.norm()), float((gradient * direction).sum() / direction.norm())]
    total = loss.detach().clone()
    distributed.all_reduce(total)
    if rank == 0:
        out.write_text(json.dumps({"loss": float(total), "gradients": sums}))
    distributed.barrier()
    os._exit(0)  # once in some twenty runs gloo's threads outlive the modules that hold them, and abort what has ended well


if __name__ == "__main__":
    main(sys.argv[1], [int(share) for share in sys.argv[2].split(",")], Path(sys.argv[3]))
