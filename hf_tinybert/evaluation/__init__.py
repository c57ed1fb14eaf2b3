"""Task metrics of the student, and its fidelity to the teacher."""
