"""HTML pages: each is one self-contained file, rendered from a template of this package."""

from __future__ import annotations

from functools import cache
from typing import Any

from knowsam.presentation.text import (
    count_text,
    dice_text,
    duration_text,
    points_text,
    share_text,
)


def render(template: str, **values: Any) -> str:
    """A page from a template of this package.

    Args:
        template: Its path below the package, such as `"reporting/page.html.j2"`.
        **values: What it shows. Text is escaped; a name that the template uses must be given.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Any:
    """What renders, once in a process: it keeps the templates that it compiled."""
    # Late: jinja2 is slow to import, and most commands write no page.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("knowsam", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        dice=dice_text, points=points_text, count=count_text, share=share_text, duration=duration_text
    )
    return environment
