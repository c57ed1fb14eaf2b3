"""What both stages of `hf-tinybert distill` share: training and publishing."""

from __future__ import annotations

from hf_tinybert.benchmark.comparison import Comparison
from hf_tinybert.cli import arguments
from hf_tinybert.trainer import DistillationTrainer


def train(trainer: DistillationTrainer) -> None:
    """Train, from the checkpoint of `--resume-from-checkpoint` if there is one, and save student and state."""
    trainer.train(resume_from_checkpoint=arguments.resume(trainer.args))
    trainer.save_model(_internal_call=True)  # the upload, with the card, comes at the end
    trainer.save_state()


def publish(
    trainer: DistillationTrainer, comparison: Comparison | None = None, dataset_tags: str | None = None
) -> None:
    """Write the model card and, with `--push-to-hub`, upload student and card.

    Args:
        trainer: trained and evaluated.
        comparison: of teacher and student; without, the card measures their sizes and latencies.
        dataset_tags: Hub id of the data.
    """
    if trainer.args.push_to_hub:
        trainer.push_to_hub(comparison=comparison, dataset_tags=dataset_tags)
    else:
        trainer.create_model_card(comparison=comparison, dataset_tags=dataset_tags)
