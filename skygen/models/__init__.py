"""The three models: a captioner, a Stable Diffusion, and the SkyCLIP that judges both."""
