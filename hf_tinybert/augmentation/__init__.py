"""Data augmentation: algorithm 1 of TinyBERT."""
