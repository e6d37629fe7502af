"""What a set of pairs is made of, counted and shown."""
