"""The model card: the facts about a student, and the page that is made from them."""

from hf_tinybert.model_card.create import make
from hf_tinybert.model_card.facts import CardFacts, CardMetadata, Scores
from hf_tinybert.model_card.page import page, write
from hf_tinybert.model_card.pictures import SENTENCE
from hf_tinybert.model_card.recorder import Recorder

__all__ = ["SENTENCE", "CardFacts", "CardMetadata", "Recorder", "Scores", "make", "page", "write"]
