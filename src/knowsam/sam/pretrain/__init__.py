"""Pretraining of a small SAM as a promptable segmenter, on images drawn on the fly."""
