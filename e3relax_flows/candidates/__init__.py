"""Candidates: where structures come from, which are equal, which come first, energies above hulls."""
