"""The tabs of the demo's page, one a file; each adds itself inside a running ``gr.Blocks``."""
