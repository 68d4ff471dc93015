"""Formats on disk. Nothing here imports torch or a model."""
