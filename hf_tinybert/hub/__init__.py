"""Saves models, reads checkpoints and uploads to the Hub."""
