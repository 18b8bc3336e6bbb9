"""SAM's networks: the bundled small one, attention, adapters of SAM-Med2D, one decoder pass."""
