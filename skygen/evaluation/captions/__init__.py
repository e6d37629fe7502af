"""How good captions are, beside baselines and people."""
