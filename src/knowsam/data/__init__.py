"""From a folder to batches: what is in it, who is labelled, what mask values mean, what is wrong."""
