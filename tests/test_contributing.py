"""The recipe of CONTRIBUTING.md makes a method: typed into a copy of the package, it trains and is compared."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

import knowsam
from support.folders import make_folder

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

CONTRIBUTING = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
STEPS = ("--size", "32", "--steps", "3", "--batch", "2+2", "--quiet")


@pytest.fixture(scope="module")
def recipe() -> tuple[str, str]:
    """The file of the method and its line for the table of methods, as they stand on the page."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    # Blocks may stand within a list, and are then indented.
    blocks = [textwrap.dedent(block) for _, block in re.findall(r"^( *)```\w*\n(.*?)^\1```", text, re.M | re.S)]
    (method,) = [block for block in blocks if "class Toy(" in block]
    (line,) = [block.strip() for block in blocks if block.strip().startswith('"toy":')]
    return method, line


@pytest.fixture(scope="module")
def package(recipe: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package to which both blocks of the recipe were added, and nothing else."""
    method, line = recipe
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(Path(knowsam.__file__).parent, root / "knowsam", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "knowsam" / "methods" / "toy.py").write_text(method, encoding="utf-8")
    registry = root / "knowsam" / "methods" / "registry.py"
    text, added = re.subn(
        r'^( +)("supervised": )', rf"\1{line}\n\1\2", registry.read_text(encoding="utf-8"), count=1, flags=re.M
    )
    assert added == 1
    registry.write_text(text, encoding="utf-8")
    return root


def run(package: Path, *arguments: str | Path) -> str:
    """What `knowsam ARGUMENTS...` of that copy prints; it must end well."""
    command = [sys.executable, "-m", "knowsam", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(package)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=package)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_recipes_method_is_in_order(package: Path) -> None:
    for words in (("check",), ("format", "--check")):
        command = [sys.executable, "-m", "ruff", *words, "--config", str(CONTRIBUTING.parent / "pyproject.toml")]
        command += ["--no-cache", str(package / "knowsam" / "methods" / "toy.py")]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("sam", ["none", "tiny"])
def test_the_recipes_method_trains(package: Path, tmp_path: Path, sam: str) -> None:
    data, out = make_folder(tmp_path / "data"), tmp_path / "run"
    run(package, "train", data, "--out", out, "--method", "toy", *STEPS, f"sam={sam}", "train.log_every=1")
    assert yaml.safe_load((out / "config.yaml").read_text())["method"] == "toy"
    records = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "terms" in record]
    assert [record["step"] for record in steps] == [1, 2, 3]
    assert all(("sam_kd" in record["terms"]) == (sam == "tiny") for record in steps)
    assert (out / "student.safetensors").stat().st_size > 0
    assert (out / "report.html").stat().st_size > 0


def test_the_recipes_method_stands_in_the_table_of_a_comparison(package: Path, tmp_path: Path) -> None:
    data, out = make_folder(tmp_path / "data", n_images=8, n_masks=6), tmp_path / "out"
    words = ("--methods", "supervised,toy", "--sam", "none", "--labelled", "2")
    run(package, "compare", data, *words, "--out", out, *STEPS)
    table = json.loads((out / "table.json").read_text(encoding="utf-8"))
    assert [(row["method"], row["complete"]) for row in table["rows"]] == [("supervised", True), ("toy", True)]
    assert (table["failed"], table["missing"]) == ({}, [])
