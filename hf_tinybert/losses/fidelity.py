"""Fidelity: how closely a student's predictions follow its teacher's.

Agreement is the share of equal predictions, and KL the Kullback-Leibler divergence of the teacher's distribution from
the student's, in nats (Stanton et al. 2021, "Does Knowledge Distillation Really Work?", section 3).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def agreement_and_kl(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Agreement (0 or 1) and KL divergence of distributions over the last dimension.

    Args:
        student: logits `[..., C]`.
        teacher: logits of the same shape.

    Returns:
        Two tensors of that shape without C, float32.
    """
    log_s, log_t = (F.log_softmax(logits.float(), dim=-1) for logits in (student, teacher))
    agreement = (student.argmax(dim=-1) == teacher.argmax(dim=-1)).float()
    return agreement, (log_t.exp() * (log_t - log_s)).sum(dim=-1)
