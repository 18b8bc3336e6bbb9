"""Uncertainty of predictions, their estimated Dice, and what to label next."""
