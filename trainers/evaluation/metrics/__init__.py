"""What is measured on held-out rows: one metric a file, found by name."""
