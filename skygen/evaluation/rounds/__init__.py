"""The rounds of a closed loop: where every picture came from, and what got better."""
