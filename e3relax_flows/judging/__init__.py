"""Judge a model against the one in service: errors on holdouts, comparisons, the gate."""
