"""What a torture tried, written down at once, so that one that was interrupted goes on where it was.

    python tests/reliability/ledger.py

prints what was tried of the source as it is now: a change of the source begins anew, unless `KNOWSAM_TORTURE` in the
environment names the folder of ledgers to go on with. A file for each part, in it a line of JSON for each thing tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Findings = list[str]


def current_folder() -> Path:
    """Where the ledgers of the source as it is now are kept, or those that the environment names."""
    if named := os.environ.get("KNOWSAM_TORTURE"):
        return Path(named).resolve()
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src" / "knowsam").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return ROOT / ".torture" / digest.hexdigest()[:12]


class Ledger:
    """The ledger of one part.

    Args:
        path: The file; None: nothing is written down.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.entries = path, {} if path is None else read_entries(path)

    def attempt(self, key: str, act: Callable[[], Findings], files: int = 1) -> Findings:
        """Do something and write down what is wrong then; not if nothing was the last time.

        Args:
            key: What it is called, once in a ledger.
            act: Does it.
            files: As how many things tried it counts.
        """
        if key in self.entries and not self.entries[key][1]:
            return []
        wrong = act()
        self.entries[key] = files, wrong
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                # A new line first: the last one may be cut.
                file.write("\n" + json.dumps({"key": key, "files": files, "wrong": wrong}))
        return wrong


def read_entries(path: Path) -> dict[str, tuple[int, Findings]]:
    """What was tried -> as how many things it counts, and what was wrong the last time; a line may be cut."""
    entries = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            entries[entry["key"]] = entry["files"], entry["wrong"]
    return entries


def main() -> None:
    """Print a line for each part."""
    folder = current_folder()
    for path in sorted(folder.glob("*.jsonl")):
        entries = read_entries(path)
        tried = sum(files for files, _ in entries.values())
        print(f"{path.stem}: {tried} tried, {sum(bool(wrong) for _, wrong in entries.values())} did not hold")
        for key, (_, wrong) in entries.items():
            for one in wrong:
                print(f"    {key}: {one}")
    if not folder.exists():
        print(f"{folder}: nothing was tried of the source as it is now; run `make torture`.")


if __name__ == "__main__":
    main()
