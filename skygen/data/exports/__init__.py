"""A selection of pairs, written out for others."""
