"""From a folder to predicted masks in five lines of Python.

    python examples/train_from_python.py DATA OUT [key=value ...]

DATA holds images/ and masks/ (docs/own-data.md); OUT gets the run and the predictions of all images.
"""

from __future__ import annotations

import sys
from pathlib import Path

from knowsam.config import parse_overrides, resolve_config
from knowsam.inference.files import predict_files
from knowsam.inference.predictor import Predictor
from knowsam.training.run import train


def main(data: str, out: str, *settings: str) -> None:
    config = resolve_config({"data": {"path": data}}, parse_overrides(settings))
    result = train(config, Path(out) / "run")
    predictor = Predictor(result.folder.path)
    for item in predict_files(predictor, data, Path(out) / "predictions", with_overlay=True):
        print(item.image.name, "->", item.label or item.error)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
