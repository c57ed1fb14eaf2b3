"""The teacher's features on disk: logits by row, or everything that the losses compare.

`policy.open_source` chooses and opens the source. Nothing here depends on the trainer or the student.
"""

from hf_tinybert.teacher.cache.policy import open_source

__all__ = ["open_source"]
