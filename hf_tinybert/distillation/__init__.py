"""The distillation objective: the levels at which student and teacher are compared, their losses and phases."""
