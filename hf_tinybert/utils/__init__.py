"""What knows nothing of models or distillation."""
