"""A small world drawn as overhead tiles, written to disk exactly as SkyScript is: the data of tests and of the quickstart."""
