"""The e3relax command."""
