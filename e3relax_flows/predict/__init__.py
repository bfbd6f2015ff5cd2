"""From structures to predictions: batches, guards, symmetry, constraints."""
