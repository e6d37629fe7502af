"""Whether synthetic images help a classifier that is tested on real ones."""
