"""Saving, checkpoints and uploads."""
