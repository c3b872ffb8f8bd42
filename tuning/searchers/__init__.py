"""Searchers: a file in this folder is a kind of `searcher` in a study file."""
