"""Rows of users' files and data sets, plain text, and the order in which examples are read."""
