"""Crystals as tensors: neighbours, conversion, batches."""
