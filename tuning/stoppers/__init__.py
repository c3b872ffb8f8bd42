"""Stoppers: a file in this folder is a kind of `stopper` in a study file."""
