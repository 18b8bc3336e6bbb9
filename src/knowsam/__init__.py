"""knowsam: from a folder of medical images and a few masks to a small, accurate segmentation network."""

__version__ = "0.1.0"
