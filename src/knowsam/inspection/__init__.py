"""The check of a data folder: every file opened, every problem named."""
