"""A SAM by name: sizes, the hub, directories, original checkpoints, another input size."""
