"""How the rows of a data set are read, one module for each way they can lie."""
