"""The methods, one file each, and the table that names them."""

from knowsam.methods.base import Method, MethodContext, StudentMethod, StudentOptions, join_halves
from knowsam.methods.registry import METHODS, known_method, load_method, register_method

__all__ = [
    "METHODS",
    "Method",
    "MethodContext",
    "StudentMethod",
    "StudentOptions",
    "join_halves",
    "known_method",
    "load_method",
    "register_method",
]
