"""The comparison of methods, with and without SAM, over a grid of runs."""
