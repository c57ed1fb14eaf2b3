"""The model card: what is known of a student, and the page that says it."""

from hf_tinybert.card.facts import CardFacts, Scores
from hf_tinybert.card.making import make
from hf_tinybert.card.page import page, write
from hf_tinybert.card.pictures import SENTENCE
from hf_tinybert.card.recorder import Recorder

__all__ = ["SENTENCE", "CardFacts", "Recorder", "Scores", "make", "page", "write"]
