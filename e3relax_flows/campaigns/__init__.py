"""Campaigns: generations of choosing, relaxing, training and judging."""
