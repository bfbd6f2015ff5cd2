"""From pairs to the next model: snapshot, training, evaluation, gate, promotion."""
