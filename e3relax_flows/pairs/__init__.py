"""Pairs of initial and relaxed structures: from relaxations, files and task documents to datasets."""
