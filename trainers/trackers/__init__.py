"""Who else is told a run's numbers: one tracker a file, found by name."""
