"""Prediction in front of a relaxation: the makers and jobs of one candidate."""
