"""Screens: register candidates, predict, relax, advance, at every place."""
