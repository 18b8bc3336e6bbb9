"""For tests that mutate files."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowsam.networks.registry import NETWORKS
from support.exports import SHALLOW


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where code that a file runs would leave its canary; runs made there have a small network."""
    monkeypatch.chdir(tmp_path)
    for name, network in SHALLOW.items():
        monkeypatch.setitem(NETWORKS.own, name, network)
    return tmp_path
