"""SkyScript's published files: what there is, and how it comes here whole."""
