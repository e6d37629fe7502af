"""What a CLIP says of millions of pairs, computed once."""
