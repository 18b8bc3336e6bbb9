"""Pure functions of tensors: losses, mixing, schedules, pseudo-labels, probabilities, uncertainty."""
