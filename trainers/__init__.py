"""What a run does: run file, model, objective, loop, checkpoint, evaluation, export."""
