"""KD SAM: a small SAM learns from a large one, first its embedding, then its answers."""
