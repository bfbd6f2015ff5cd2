"""The ledger: predictions and outcomes, their joining, claims on relaxations, tables."""
