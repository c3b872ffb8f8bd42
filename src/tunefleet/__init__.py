"""tunefleet: fine-tuning of transformers models on Ray clusters, from a laptop to a fleet."""
