"""From a student file to masks, and to one file that predicts without this package."""
