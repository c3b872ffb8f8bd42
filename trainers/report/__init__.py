"""The run report: one page that says what came of a run, and shows what it rests on."""
