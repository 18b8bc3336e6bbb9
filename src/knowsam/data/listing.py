"""What lies in a folder of images: one rule for all commands of what is an image and what is passed over."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from knowsam.io import is_image_file

SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "icon\r")
"""Files and folders that operating systems leave behind, in small letters."""


@dataclass
class Listing:
    """The entries of one folder, sorted by name; hidden ones and those of the operating system left out.

    Attributes:
        images: Files in a format that can be read.
        others: Names of all other files.
        subfolders: Names.
    """

    images: list[Path] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    subfolders: list[str] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """True for what no user put there: `.DS_Store`, `._a.png` of a Mac, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def list_folder(folder: Path, leave_out: Collection[Path] = ()) -> Listing:
    """List a folder, not its subfolders.

    Args:
        folder: Where to look.
        leave_out: Files to pass over, such as those of DICOM series.
    """
    found = Listing()
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if is_hidden(entry.name) or (leave_out and folder / entry.name in leave_out):
                continue
            if entry.is_dir():
                found.subfolders.append(entry.name)
            elif not is_image_file(folder / entry.name):
                found.others.append(entry.name)
            else:
                found.images.append(folder / entry.name)
    return found


def images_below(
    folder: Path, leave_out: Path | None = None, files_left_out: Collection[Path] = ()
) -> dict[Path, list[Path]]:
    """The images of all subfolders, at any depth; links to folders are not followed.

    Args:
        folder: Where to start; its own images are not among them.
        leave_out: A subfolder to pass over, with all below it.
        files_left_out: As in `list_folder`.

    Returns:
        Subfolder -> its images, for those that have any, sorted.
    """
    found: dict[Path, list[Path]] = {}
    waiting = [folder / name for name in list_folder(folder).subfolders]
    while waiting:
        here = waiting.pop()
        if here.is_symlink() or (leave_out is not None and here.resolve() == leave_out.resolve()):
            continue
        listing = list_folder(here, files_left_out)
        if listing.images:
            found[here] = listing.images
        waiting += [here / name for name in listing.subfolders]
    return dict(sorted(found.items()))
