"""From a folder to predicted masks in a few lines of Python.

    python examples/train_from_python.py DATA OUT [key=value ...]

DATA holds images/ and masks/ (docs/own-data.md); OUT gets the run and the predictions of all images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import knowsam
from knowsam.config import parse_overrides


def main(data: str, out: str, *settings: str) -> None:
    report = knowsam.check(data)
    print(report)
    if not report.ok:
        return
    run = knowsam.train(data, Path(out) / "run", settings=parse_overrides(settings))
    if not run.finished:  # interrupted by Ctrl-C; what was done is saved
        run = knowsam.resume(run.folder.path)
    predicted = knowsam.predict(run.folder.path, data, Path(out) / "predictions", overlay=True)
    for item in predicted.files:
        print(item.image.name, "->", item.label or item.error)
    print(knowsam.evaluate(Path(out) / "predictions", Path(data) / "masks"))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
