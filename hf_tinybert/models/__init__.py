"""Loads models and finds the parts whose outputs the losses compare."""
