"""Sets of embedded images, searched and shown."""
