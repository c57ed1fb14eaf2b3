"""The model card: what is known of a student, and the page that says it."""

from hf_tinybert.model_card.create import make
from hf_tinybert.model_card.facts import CardFacts, Scores
from hf_tinybert.model_card.page import page, write
from hf_tinybert.model_card.pictures import SENTENCE
from hf_tinybert.model_card.recorder import Recorder

__all__ = ["SENTENCE", "CardFacts", "Recorder", "Scores", "make", "page", "write"]
