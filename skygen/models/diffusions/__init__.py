"""The families of text-to-image models: what differs between the diffusion pipelines of diffusers, and nothing else."""
