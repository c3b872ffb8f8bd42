"""The study report: one page that says which settings won, what that cost, and what it rests on; written anew while the study runs."""
