"""From a configuration to a trained run: data, method, optimisers, the loop, checkpoints."""
