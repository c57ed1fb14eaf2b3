"""Data augmentation: algorithm 1 of TinyBERT (Jiao et al. 2020)."""

from hf_tinybert.augmentation.augmenter import TextAugmenter
from hf_tinybert.augmentation.label_filter import keep_labels
from hf_tinybert.augmentation.presets import AugmentationSettings, paper_settings
from hf_tinybert.augmentation.rows import report
from hf_tinybert.augmentation.word_vectors import WordVectors

__all__ = ["AugmentationSettings", "TextAugmenter", "WordVectors", "keep_labels", "paper_settings", "report"]
