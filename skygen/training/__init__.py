"""Training: the one loop, its optimizer, and what a learner is."""
