"""What models cost, and teacher and student side by side."""
