"""A run as one page to read, to keep and to print; several runs as one page to compare."""
