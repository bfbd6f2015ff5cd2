"""Makers that put the network in front of DFT."""
