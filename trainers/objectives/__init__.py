"""What is optimised: one objective a file, found by name."""
