"""Scores: definitions, one loop that predicts and counts, two folders compared."""
