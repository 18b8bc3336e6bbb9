"""Mutated files for everything that reads: what is wrong with a file is one sentence, quickly, in little memory.

    python tests/reliability/fuzz.py --seconds 900 --seed 1 --keep FOLDER [--only nii.gz png run]

Each file is read in a child process with a limit on its memory and time, which is started anew when a file ends it.
The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY_BYTES = 300 << 20
"""What reading a mutated file may take beside what the process has."""
SLOW_SECONDS, HANG_SECONDS = 2.0, 20
"""Processor time from which a file was slow; real time after which the child is ended."""
LONGEST_SENTENCE = 1200
INTERESTING = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (
    b"null", b"NaN", b"-1", b"1e999", b"9" * 5000, b"[]", b"{}", b'""', b"true", b"2001-13-45", b"2024-01-01",
    b"!!python/object/apply:os.system ['touch canary']", b"\xff\xfe", b"\x00", b"\n", b"[" * 3000, b"\xf0\x9f", b"-",
    b"&a [*a]", b"0.5", b"'", b"\\", b"\xe2\x80\xa8", b"..", b"/", b"step", b"1" * 30,
)  # fmt: skip

Probe = Callable[[Path], Any]


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        name: For findings and `--only`.
        seeds: Valid files.
        read: What is done with a mutated one; it lies where its seed lay, under its name.
        checked: Whether every bit of it is under a checksum, so that a mutated one is refused or reads the same.
        whole: Whether a cut one is refused or reads the same.
        text: Whether it is text.
    """

    name: str
    seeds: Sequence[Path]
    read: Probe
    checked: bool = False
    whole: bool = False
    text: bool = False


@dataclass
class Report:
    """What came out.

    Attributes:
        tried: Target -> files.
        refused: Target -> files that were refused in one sentence.
        ended: Target -> files that ended the process which reads for this one.
        findings: Kind of finding -> the first file of it, and how many.
    """

    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    findings: dict[str, tuple[str, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{name:24} {count:8} tried, {self.refused[name]:8} refused, {self.ended[name]:5} ended their process"
            for name, count in sorted(self.tried.items())
        ]
        lines.append(f"{'all':24} {self.tried.total():8} tried, {len(self.findings)} kinds of findings")
        lines += [f"FINDING {kind}: {count} times, first {where}" for kind, (where, count) in self.findings.items()]
        return "\n".join(lines)


def mutate(content: bytes, rng: random.Random, text: bool = False) -> tuple[bytes, str]:
    """One to four changes of a file's bytes, and what they were."""
    said = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = rng.choice(TEXT_CHANGES if text and rng.random() < 0.8 else CHANGES)
        content = change(bytearray(content), rng)
        said.append(change.__name__.strip("_"))
    return bytes(content), "+".join(said)


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _byte(data: bytearray, rng: random.Random) -> bytearray:
    if data:
        data[_early(data, rng)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return data


def _number(data: bytearray, rng: random.Random) -> bytearray:
    width = rng.choice((1, 2, 4, 8))
    at = _early(data, rng)
    value = rng.choice(INTERESTING) % (1 << 8 * width)
    data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
    return data


def _noise(data: bytearray, rng: random.Random) -> bytearray:
    at, length = _early(data, rng), rng.randrange(1, 64)
    data[at : at + length] = rng.randbytes(length)
    return data


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    few = min(len(data), rng.randrange(1, 17))
    return data[: rng.choice((len(data) - few, rng.randrange(len(data) + 1)))]


def _remove(data: bytearray, rng: random.Random) -> bytearray:
    at = _early(data, rng)
    del data[at : at + rng.randrange(1, 40)]
    return data


def _repeat(data: bytearray, rng: random.Random) -> bytearray:
    at, length = _early(data, rng), rng.randrange(1, 200)
    data[at:at] = data[at : at + length]
    return data


def _move(data: bytearray, rng: random.Random) -> bytearray:
    length = rng.randrange(1, 40)
    first, second = _early(data, rng), _early(data, rng)
    data[first : first + length] = data[second : second + length]
    return data


def _word(data: bytearray, rng: random.Random) -> bytearray:
    places = [found.span() for found in re.finditer(rb"[\w.+-]+|\"[^\"]*\"", bytes(data))]
    if places:
        start, end = rng.choice(places)
        data[start:end] = rng.choice(WORDS)
    return data


def _line(data: bytearray, rng: random.Random) -> bytearray:
    lines = bytes(data).split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, rng.choice(lines))
    elif kind == 2:
        lines.insert(at, rng.choice(WORDS))
    else:
        lines[at] = lines[at] * rng.randrange(2, 300)
    return bytearray(b"\n".join(lines))


def _key(data: bytearray, rng: random.Random) -> bytearray:
    """Another name, or none, for a key of JSON or YAML, or a column."""
    places = [found.span() for found in re.finditer(rb"\"?\w+\"?(?=\s*[:,=])", bytes(data))]
    if places:
        start, end = rng.choice(places)
        data[start:end] = rng.choice((b'"x"', b"x", b"", b'"step"', b'"format"'))
    return data


CHANGES = (_flip, _byte, _number, _noise, _cut, _remove, _repeat, _move)
TEXT_CHANGES = (_word, _word, _line, _key, _cut, _flip)


def _early(data: bytearray, rng: random.Random) -> int:
    """A place, more often in the first kilobyte, where headers are."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 1024)
    return rng.randrange(end) if end else 0


def mutated(seed: Path, target: Target, rng: random.Random) -> tuple[bytes, str]:
    """A mutated file; half of those with checksums get right ones again, so that what lies behind is reached."""
    content = seed.read_bytes()
    if rng.random() < 0.5:
        return mutate(content, rng, target.text)
    if seed.name.endswith(".gz"):
        inner, said = mutate(gzip.decompress(content), rng)
        return gzip.compress(inner, 1), f"{said}, mended"
    changed, said = mutate(content, rng, target.text)
    if seed.suffix == ".png":
        return _mend_png(changed), f"{said}, mended"
    return changed, said


def _mend_png(content: bytes) -> bytes:
    """The same chunks with right checksums, as far as they can be followed."""
    out, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if at + 12 + length > len(content):
            break
        body = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return bytes(out + content[at:])


def run(
    targets: Sequence[Target], folder: Path, seed: int, stop: Callable[[int], bool], keep: Path | None = None
) -> Report:
    """Read mutated files until `stop(number)`; the child that does it is started anew when a file ends it."""
    report, number = Report(), 0
    contents = {path: path.read_bytes() for target in targets for path in target.seeds}
    while not stop(number):
        for path, content in contents.items():  # one that ended a child is still as it was changed
            path.write_bytes(content)
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(out)
            _child(targets, folder, seed, number, into)
        os.close(into)
        last: dict[str, Any] = {}
        with os.fdopen(out, "r", encoding="utf-8") as lines:
            for line in lines:
                last = json.loads(line)
                if last["state"] == "begun":
                    continue
                number = last["number"] + 1
                _note(report, last, folder, keep)
                if stop(number):
                    os.kill(child, signal.SIGKILL)
                    break
        _, status = os.waitpid(child, 0)
        if last.get("state") == "begun":
            number = last["number"] + 1
            last["finding"] = f"{last['target']}: the process ended with signal {os.WTERMSIG(status)}"
            _note(report, last, folder, keep)
    for path, content in contents.items():
        path.write_bytes(content)
    return report


def _note(report: Report, last: dict[str, Any], folder: Path, keep: Path | None) -> None:
    target = last["target"]
    report.tried[target] += 1
    report.refused[target] += last.get("refused", False)
    report.ended[target] += last.get("ended", False)
    if "finding" in last:
        where, count = report.findings.get(last["finding"], (f"number {last['number']} ({last['said']})", 0))
        report.findings[last["finding"]] = where, count + 1
        if keep is not None and count < 3:
            keep.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"\W+", "_", last["finding"])[:80]
            (keep / f"{name}_{last['number']}_{Path(last['path']).name}").write_bytes(Path(last["path"]).read_bytes())


def _child(targets: Sequence[Target], folder: Path, seed: int, number: int, into: int) -> None:
    """Read mutated files from this number on, one line before and one after each."""
    try:
        with os.fdopen(into, "w", encoding="utf-8") as lines:
            wholes = {path: _quietly(target.read, path) for target in targets for path in target.seeds}
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
            while True:
                for line in _try_one(targets, wholes, folder, seed, number):
                    lines.write(json.dumps(line) + "\n")
                    lines.flush()
                number += 1
    except BrokenPipeError:
        pass
    finally:
        os.kill(os.getpid(), signal.SIGKILL)  # it is a fork: nothing of the parent may be finished here


def _quietly(read: Probe, path: Path) -> Any:
    try:
        return read(path)
    except Exception as error:
        return error


def _try_one(
    targets: Sequence[Target], wholes: dict[Path, Any], folder: Path, seed: int, number: int
) -> Iterator[dict[str, Any]]:
    from knowsam.errors import InputError

    rng = random.Random(f"{seed} {number}")
    target = rng.choice(targets)
    origin = rng.choice(list(target.seeds))
    kept = origin.read_bytes()
    changed, said = mutated(origin, target, rng)
    line = {"number": number, "target": target.name, "said": f"{origin.name}, {said}", "path": str(folder / "last")}
    yield {**line, "state": "begun"} | {"path": str(origin)}
    line["path"] = str(folder / origin.name)
    finding = None
    began = time.process_time()
    try:
        origin.write_bytes(changed)
        signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
        found = target.read(origin)
        must_be_whole = (target.checked and "mended" not in said) or (target.whole and said == "cut")
        if must_be_whole and changed != kept and not _same(found, wholes[origin]):
            finding = "read although it is not what was saved"
    except InputError as error:
        line["refused"] = True
        finding = _bad_sentence(str(error), origin)
        line["ended"] = "ended the library" in str(error)
    except Exception as error:
        finding = f"{type(error).__name__} in {_place(error)}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if finding is None and time.process_time() - began > SLOW_SECONDS:
            finding = f"slower than {SLOW_SECONDS} s"
        if finding is None and Path("canary").exists():
            finding = "ran code"
        if finding is not None:
            (folder / origin.name).write_bytes(changed)
        origin.write_bytes(kept)
    yield {**line, "state": "done"} | ({} if finding is None else {"finding": f"{target.name}: {finding}"})


def _same(found: Any, whole: Any) -> bool:
    if hasattr(found, "tobytes"):
        return hasattr(whole, "tobytes") and found.shape == whole.shape and found.tobytes() == whole.tobytes()
    if isinstance(found, tuple | list):
        return isinstance(whole, tuple | list) and all(map(_same, found, whole))
    return bool(found == whole)


def _bad_sentence(text: str, path: Path) -> str | None:
    if "memory ran out" in text:
        return "more memory than is allowed"
    if len(text.replace(str(path), "")) > LONGEST_SENTENCE:
        return "a long sentence"
    if path.name not in text and path.parent.name not in text:
        return "a sentence that does not name the file"
    return None


def _place(error: BaseException) -> str:
    """The last line of this package that an error went through."""
    place, step = "?", error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if "knowsam" in file:
            place = f"{Path(file).name}:{step.tb_frame.f_code.co_name}"
        step = step.tb_next
    return place


def main() -> None:
    """Read mutated files for some seconds and print what came out."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from knowsam.networks.registry import NETWORKS
    from reliability.fuzz_targets import all_targets
    from support.exports import SHALLOW

    NETWORKS.own.update(SHALLOW)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--files", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that something is wrong with")
    parser.add_argument("--only", nargs="*", default=[], help="names of targets, or beginnings of them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        targets = [one for one in all_targets(folder) if not given.only or any(map(one.name.startswith, given.only))]
        end = time.monotonic() + given.seconds
        keep = None if given.keep is None else given.keep.resolve()
        report = run(targets, folder, given.seed, lambda n: n >= given.files or time.monotonic() > end, keep)
    print(report)
    sys.exit(bool(report.findings))


if __name__ == "__main__":
    main()
