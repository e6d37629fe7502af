"""Generation: prompts, sampling in bulk, selection by SkyCLIP, provenance."""
