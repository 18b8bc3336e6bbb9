"""Run a scenario with one fault after the other, each in a process of its own, and say what did not hold.

    python tests/reliability/crash.py train --kinds kill,power --part 0/4
    python tests/reliability/crash.py "train longer" --kills 100
    python tests/reliability/crash.py compare --pairs 5

Prints one line of JSON: `{"tried": N, "findings": [...]}`. The command is run once in this process, so that the forks
of it, in which the faults happen, have at once what a new process spends most of its time on.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from faults import ERRORS, Fault, Operation, Watch, lose_power, possible, read_trace
from ledger import Ledger
from scenarios import SCENARIOS, Ended, Scenario

from knowsam.networks.registry import NETWORKS
from knowsam.storage import is_alive
from support.exports import SHALLOW

ALLOWED = (0, 1, 2)
"""Exit codes after an error of the system: 70 is a traceback."""
PREFIX = "knowsam-torture-"
"""Of temporary folders; the number of their process follows, so that those of a dead one can be removed."""
KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)


class Fork:
    """Something done in a fork of this process; it began when this was made."""

    def __init__(self, action: Callable[[], Ended]) -> None:
        self.reading, writing = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                ended = action()
            except BaseException:
                ended = Ended(70, traceback.format_exc())
            os.write(writing, json.dumps([ended.code, ended.err[-3000:]]).encode())
            os._exit(0)
        os.close(writing)

    def end(self) -> Ended:
        """Wait for it; a negative code is the signal that ended it."""
        with os.fdopen(self.reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(self.process, 0)
        return Ended(-os.WTERMSIG(status), "") if os.WIFSIGNALED(status) else Ended(*json.loads(said))


def in_a_fork(action: Callable[[], Ended]) -> Ended:
    """Do something in a fork, and say how it ended."""
    return Fork(action).end()


class Bench:
    """A scenario with its inputs, its undisturbed output, and the operations that led to it."""

    def __init__(self, name: str, root: Path) -> None:
        self.scenario: Scenario = SCENARIOS[name]
        self.root, self.inputs, self.whole = root, root / "inputs", root / "whole"
        self.inputs.mkdir(parents=True)
        NETWORKS.own.update(SHALLOW)
        require(in_a_fork(lambda: self.scenario.prepare(self.inputs) or Ended(0, "")))
        # Under the name that all others have, too: it stands in files.
        self.out, self.trace = root / "out", root / "trace"
        self.warm_up()
        self.fresh()
        started = time.monotonic()
        require(in_a_fork(lambda: self.watched(self.out, None)))
        self.seconds = time.monotonic() - started
        self.operations = read_trace(self.trace)
        self.out.rename(self.whole)

    def warm_up(self) -> None:
        """Import and build, in this process, what each of its forks would have to."""
        for name in self.scenario.imports:
            importlib.import_module(name)
        if not self.scenario.imports:
            self.fresh()
            require(self.scenario.start(self.inputs, self.out))
        gc.collect()
        for _ in range(100):  # a thread that was let go needs a moment
            if len(os.listdir("/proc/self/task")) == 1:
                break
            time.sleep(0.1)
        else:
            sys.exit("a thread was left, which a fork would lose")
        gc.freeze()

    def fresh(self) -> None:
        """The output as it is before the command."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.scenario.begins_with:
            shutil.copytree(self.inputs / self.scenario.begins_with, self.out)

    def watched(self, watch: Path, fault: Fault | None, reading: bool = False) -> Ended:
        Watch(watch, self.trace, fault, reading).start()
        return self.scenario.start(self.inputs, self.out)

    def go_on(self) -> list[str]:
        """What is wrong after a person went on."""
        ended = in_a_fork(lambda: self.scenario.go_on(self.inputs, self.out))
        if ended.code:
            return [f"going on ended with {ended.code}: {ended.err.strip()[-400:]}"]
        return self.scenario.differences(self.out, self.whole)

    def with_fault(self, fault: Fault, reading: bool = False) -> list[str]:
        """What is wrong after one fault."""
        self.fresh()
        place = self.inputs / self.scenario.reads if reading else self.out
        ended = in_a_fork(lambda: self.watched(place, fault, reading))
        wrong = []
        if ended.code not in (KILLED if fault.kind in ("kill", "cut", "power") else ALLOWED):
            # A cut is none where the file stays shorter than that.
            if not (fault.kind == "cut" and ended.code == 0):
                wrong.append(f"ended with {ended.code}: {ended.err.strip()[-400:]}")
        elif fault.kind in ERRORS or fault.kind == "full":
            lines = [line for line in ended.err.strip().splitlines() if not line.startswith(("note:", "warning:"))]
            if ended.code == 2 and len(lines) != 1:
                wrong.append(f"said {len(lines)} lines: {ended.err.strip()[-400:]}")
            left = [one.name for one in self.out.rglob(".writing-*")]
            if left and not self.at_removal(fault, reading):
                wrong.append(f"left {left}")
        if fault.kind == "power":
            lose_power(self.out, read_trace(self.trace)[:-1])
        wrong += self.go_on()
        # What could not be removed stays; a lock nobody holds is none.
        return [one for one in wrong if not (self.at_removal(fault, reading) and one.endswith(".lock is left over"))]

    def at_removal(self, fault: Fault, reading: bool) -> bool:
        """Whether what failed was the removal of a file."""
        return not reading and fault.kind in ERRORS and self.operations[fault.number].what == "remove"

    def killed_at_random(self, generator: random.Random, seconds: float) -> list[str]:
        """What is wrong after one to three kills, each at any moment of the command or of what goes on with it."""
        self.fresh()
        for number in range(generator.randint(1, 3)):
            action = self.scenario.go_on if number else self.scenario.start
            fork = Fork(partial(action, self.inputs, self.out))
            time.sleep(generator.uniform(0, seconds))
            os.kill(fork.process, signal.SIGKILL)
            fork.end()
        return self.go_on()

    def two_at_once(self, generator: random.Random, seconds: float) -> list[str]:
        """What is wrong after the command was given twice, the second time a little later."""
        self.fresh()
        action = partial(self.scenario.start, self.inputs, self.out)
        first = Fork(action)
        time.sleep(generator.choice((0.0, generator.uniform(0, seconds))))
        ends = [Fork(action).end(), first.end()]
        wrong = [] if any(one.code == 0 for one in ends) else [f"none has won: {ends}"]
        for one in ends:
            lost = any(words in one.err for words in ("is at work there", "another run was found"))
            if one.code and not (one.code == 2 and lost):
                wrong.append(f"the other ended with {one.code}: {one.err.strip()[-400:]}")
        return wrong + self.scenario.differences(self.out, self.whole)


def require(ended: Ended) -> None:
    """Stop where the undisturbed command fails."""
    if ended.code:
        sys.exit(f"ended with {ended.code}: {ended.err}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--kinds", default="kill,cut,power,full,error")
    parser.add_argument("--reads", action="store_true", help="errors of reading the inputs instead")
    parser.add_argument("--part", default="0/1", help="A/B: every B-th fault, from the A-th on")
    parser.add_argument("--kills", type=int, default=0, help="so many rounds of kills at random moments instead")
    parser.add_argument("--pairs", type=int, default=0, help="so many rounds of the command twice at once instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", type=Path, help="file of what was tried already, which is added to")
    given = parser.parse_args(arguments)
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if not is_alive(int(left.name.removeprefix(PREFIX).split("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        print(json.dumps(torture(given, root)))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def torture(given: argparse.Namespace, root: Path) -> dict[str, object]:
    """All faults that were asked for."""
    bench, ledger = Bench(given.scenario, root), Ledger(given.ledger)
    undisturbed = bench.seconds
    tried: dict[str, list[str]] = {}
    for what, rounds, act in (("kills", given.kills, bench.killed_at_random), ("pair", given.pairs, bench.two_at_once)):
        for seed in range(given.seed, given.seed + rounds):
            key = f"{what} of seed {seed}"
            tried[key] = ledger.attempt(key, partial(act, random.Random(seed), undisturbed))
    for fault, at in [] if tried else faults_of(given, bench):
        key = f"{fault.kind} at {fault.number}, {at.what} {Path(at.path).name}"
        tried[key] = ledger.attempt(f"{fault.kind} at {fault.number}", partial(bench.with_fault, fault, given.reads))
    findings = [f"{key}: {one}" for key, wrong in tried.items() for one in wrong]
    return {"operations": len(bench.operations), "tried": len(tried), "findings": findings}


def faults_of(given: argparse.Namespace, bench: Bench) -> list[tuple[Fault, Operation]]:
    """The faults that were asked for, each with the operation that it meets."""
    operations = bench.operations
    if given.reads:
        bench.fresh()
        require(in_a_fork(lambda: bench.watched(bench.inputs / bench.scenario.reads, None, reading=True)))
        operations = read_trace(bench.trace)
    faults = [
        (Fault(number, ERRORS[number % len(ERRORS)] if kind == "error" else kind), operation)
        for number, operation in enumerate(operations)
        for kind in (("error",) if given.reads else given.kinds.split(","))
        if possible(operation, kind)
    ]
    first, step = map(int, given.part.split("/"))
    return faults[first::step]


if __name__ == "__main__":
    main()
