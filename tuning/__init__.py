"""Which runs to make, and the command line."""
