"""The teacher's features of a batch, computed or read from the cache."""
