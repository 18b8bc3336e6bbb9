"""Segment an array that never was a file, for example inside a viewer or a server.

    python examples/predict_array.py RUN IMAGE

RUN is a run folder, a student.safetensors or an exported .onnx. Needs neither SAM nor anything else of training.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

import knowsam


def main(run: str, source: str) -> None:
    model = knowsam.load(run)
    array = np.asarray(Image.open(source))  # (H, W) or (H, W, 3), uint8; a volume (X, Y, Z) would do as well
    mask = model(array)  # class indices, (H, W) or (X, Y, Z)
    for index, name in enumerate(model.class_names):
        print(f"{name}: {np.mean(mask == index):.1%} of the pixels")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
