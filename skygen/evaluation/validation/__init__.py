"""How a model does while it is trained, from fixed seeds, without disturbing the training."""
