"""The table of methods: names of this package, of installed packages, of a user's own file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from knowsam.errors import InputError, did_you_mean
from knowsam.methods.base import Method
from knowsam.plugins import Registry, load_from_file, names_file

METHODS: Registry[type[Method]] = Registry(
    "method",
    "class",
    "knowsam.methods",
    {
        "supervised": "knowsam.methods.supervised:Supervised",
        "mean_teacher": "knowsam.methods.mean_teacher:MeanTeacher",
        "ua_mt": "knowsam.methods.ua_mt:UncertaintyAwareMeanTeacher",
        "cps": "knowsam.methods.cps:CrossPseudoSupervision",
        "urpc": "knowsam.methods.urpc:PyramidConsistency",
        "bcp": "knowsam.methods.bcp:BidirectionalCopyPaste",
        "unimatch": "knowsam.methods.unimatch:UniMatch",
        "kd_sam": "knowsam.methods.kd_sam:KdSam",
        "preference": "knowsam.methods.preference:PreferenceAlignment",
        "sam_fed": "knowsam.methods.sam_fed:SamFed",
        "sss": "knowsam.methods.sss:SSS",
        "knowsam": "knowsam.methods.knowsam:KnowSAM",
    },
)
"""Name in a configuration -> class; each is imported when it is looked up."""


def load_method(name: str) -> type[Method]:
    """Load the class of a method.

    Args:
        name: A key of `METHODS`; a name that an installed package gives in the entry points `knowsam.methods`; or
            `PATH.py:CLASS`, a class in a file of one's own, which is run. They are tried in this order.

    Raises:
        InputError: For an unknown name, with the nearest known one; if a package or file cannot be loaded; if what is
            there is no method.
    """
    if name in METHODS:
        return METHODS[name]
    found = load_from_file(name) if names_file(name) else METHODS.load(name)
    if found is None:
        known = METHODS.names()
        raise InputError(
            f"method: '{name}' was found, but expected one of {', '.join(known)}, or FILE.py:CLASS"
            f"{did_you_mean(name, known)}"
        )
    return _require_method(name, found)


def known_method(name: str) -> type[Method] | None:
    """Load the class of a method for reading a run, without running a file of the user's.

    Returns:
        None for a method in such a file, and for a name that is unknown here, such as one that was registered in
        another process.

    Raises:
        InputError: If a package that offers the name cannot be loaded.
    """
    return load_method(name) if METHODS.is_known(name) else None


def register_method(name: str, method: type[Method]) -> None:
    """Make a method of one's own known to `train` and `compare`, in this process.

    Raises:
        InputError: If it is no method, or the name reads as a file.
    """
    if names_file(name):
        raise InputError(f"register_method: '{name}' was given, but expected a name, not a file; choose another.")
    METHODS[name] = _require_method(name, method)


def _require_method(name: str, found: Any) -> type[Method]:
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(
            f"method: {found!r} was found under '{name}', but expected a class that inherits from"
            " knowsam.methods.Method or StudentMethod; correct it."
        )
    options = getattr(found, "Options", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        raise InputError(
            f"method: {found.__name__} under '{name}' has no Options, but expected a pydantic model of its settings;"
            " add `Options = StudentOptions` where it has none of its own."
        )
    if found.unlabelled_view not in ("strong", "weak"):
        raise InputError(
            f"method: {found.__name__} under '{name}' has unlabelled_view {found.unlabelled_view!r}, but expected"
            " 'strong' or 'weak'; correct it."
        )
    if found.labels_volumes and found.unlabelled_view != "weak":
        raise InputError(
            f"method: {found.__name__} under '{name}' labels volumes and has unlabelled_view 'strong', but expected"
            " 'weak': what distorts images does not distort their labels; correct it."
        )
    return found
