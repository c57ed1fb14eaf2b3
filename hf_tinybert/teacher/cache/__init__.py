"""What the teacher said, kept on disk: logits by row, or everything the losses look at.

`opening.open_signal` decides and makes the signal; nothing here knows the trainer or the student.
"""

from hf_tinybert.teacher.cache.policy import open_signal

__all__ = ["open_signal"]
