"""What of a method a federation averages, and how it is put back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from knowsam.methods import Method
from knowsam.training.state import trained_state


def shared_state(method: Method, local_norm: bool = False) -> dict[str, Tensor]:
    """What sites have in common: all that learns, but for what the method or the user keeps at the site.

    Args:
        method: Of a site, or the global one.
        local_norm: Statistics of batch norm stay where they are; its weights do not.
    """
    statistics = _statistics(method) if local_norm else set()
    return {
        name: value
        for name, value in trained_state(method).items()
        if not name.startswith(method.stays_local) and name not in statistics
    }


def load_shared(method: Method, state: Mapping[str, Tensor], local_norm: bool = False) -> None:
    """Put `shared_state` into a method of the same networks.

    Raises:
        ValueError: A name is missing or left over.
    """
    own = shared_state(method, local_norm)
    if wrong := sorted(own.keys() ^ state.keys()):
        raise ValueError(f"{wrong[0]} is in one of two states alone ({len(wrong)} such names)")
    # Names left out are the method's own, as checked above.
    method.load_state_dict(dict(state), strict=False)


def _statistics(method: Method) -> set[str]:
    return {
        f"{module}.{name}"
        for module, norm in method.named_modules()
        if isinstance(norm, _BatchNorm)
        for name, _ in norm.named_buffers(recurse=False)
    }
