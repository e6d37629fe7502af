"""The families of captioners: what differs between the image-to-text models of transformers, and nothing else."""
