"""Segment an array that never was a file, for example inside a viewer or a server.

    python examples/predict_array.py RUN IMAGE

RUN is a run folder or a student.safetensors. Needs neither SAM nor anything else of training.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from knowsam.inference.predictor import Predictor
from knowsam.io import read_image
from knowsam.types import Geometry, MedicalImage


def segment(predictor: Predictor, array: np.ndarray) -> np.ndarray:
    """`(H, W)`, `(H, W, 3)` or, as a volume, `(X, Y, Z, 1)` -> class indices of the same spatial shape."""
    array = array[..., None] if array.ndim == 2 else array
    image = MedicalImage(array, Geometry(), Path("array"))
    return predictor.predict(image).label


def main(run: str, source: str) -> None:
    predictor = Predictor(run)
    label = segment(predictor, read_image(source).array)
    for index, name in enumerate(predictor.info.class_names):
        print(f"{name}: {np.mean(label == index):.1%} of the pixels")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
