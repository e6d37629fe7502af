"""One page of what a set of runs has made."""
