"""The check of a data folder before training."""
