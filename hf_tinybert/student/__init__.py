"""Creates students and initialises their weights."""
