"""Where a student and its starting weights come from."""
