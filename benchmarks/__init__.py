"""Speed and memory beside what users would run instead: ratios within one run, since machines differ and drift."""
