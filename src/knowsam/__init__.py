"""knowsam: from a folder of medical images and a few masks to a small, accurate segmentation network.

    import knowsam

    run = knowsam.train("DATA", "runs/a", size=256)
    knowsam.predict("runs/a", "NEW_IMAGES", "preds")
    mask = knowsam.load("runs/a")(array)

Every name here is imported at its first use, so that `import knowsam` alone imports nothing heavy. It sets how OpenMP's
threads wait (`GOMP_SPINCOUNT`) as long as torch is not imported; see `runs/waiting.py`.
"""

from typing import TYPE_CHECKING, Any

from knowsam.runs.waiting import wait_briefly

if TYPE_CHECKING:
    from knowsam.api import (
        calibrate,
        check,
        compare,
        distil,
        evaluate,
        export,
        federate,
        load,
        predict,
        report,
        resume,
        suggest,
        train,
    )
    from knowsam.errors import InputError

__version__ = "0.1.0"

# In the order in which they are used.
__all__ = [  # noqa: RUF022
    "check",
    "train",
    "resume",
    "distil",
    "predict",
    "load",
    "evaluate",
    "calibrate",
    "suggest",
    "export",
    "report",
    "compare",
    "federate",
    "InputError",
]

wait_briefly()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module("knowsam.errors" if name == "InputError" else "knowsam.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
