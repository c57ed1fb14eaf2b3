"""What the teacher said, kept on disk: logits by row, or everything the losses look at.

`opening.open_source` decides and makes the signal; nothing here knows the trainer or the student.
"""

from hf_tinybert.teacher.cache.policy import open_source

__all__ = ["open_source"]
