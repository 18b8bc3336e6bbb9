"""How sure, how good, what to label next."""
