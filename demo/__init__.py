"""The demo: a page on which the captioner, the generator and SkyCLIP can be tried."""
