"""Where it happens: Ray session, worker group, storage, errors, settings. Knows nothing of training."""
