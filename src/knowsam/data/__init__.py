"""From a folder to batches: its files and lists, the split, the meaning of mask values, slices at network size."""
