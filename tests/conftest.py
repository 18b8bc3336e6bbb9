from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"{path} is absent: it is not part of the repository")
    return path


@pytest.fixture
def golden() -> Path:
    """Folder of reference tensors made with the original modules."""
    return _folder(SHARED / "golden")


@pytest.fixture
def shared_data() -> Path:
    """Folder of real images."""
    return _folder(SHARED / "data")
