"""What a run eats: rows, formats, tokens, shards, order, stream."""
