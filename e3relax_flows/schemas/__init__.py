"""Pydantic documents; no torch, no stores."""
