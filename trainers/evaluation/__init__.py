"""Held-out evaluation: scoring, actors, comparison with the base model."""
