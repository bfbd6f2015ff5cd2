"""Stores for predictions and outcomes."""
