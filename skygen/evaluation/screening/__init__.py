"""Which pictures of a synthetic set are kept, and why the others are not."""
