"""Models, their aliases, weights and judgements."""
