"""What the teacher gives for a batch, computed or from the cache."""
