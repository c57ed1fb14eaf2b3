"""The objective: what of the student is compared with what of the teacher, and when."""
