"""Commands to copy, in lines that fit."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from knowsam.runs.next_steps import next_commands, wrapped_command

COMMANDS = [one.command for one in next_commands(Path("/a long/path of/somebody's run/with words"), "d t", 600, True)]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("command", [*COMMANDS, "knowsam train 'a b' --out x --labelled \"q' r\" data.size=[1,2]"])
def test_a_wrapped_command_is_the_same_to_a_shell(command: str, width: int) -> None:
    lines = wrapped_command(command, width, indent=4).splitlines()
    assert all(line.startswith("    ") for line in lines)
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)
    for line in lines:
        assert len(line) <= width or len(shlex.split(line.rstrip("\\"))) == 1


def test_a_short_command_stays_in_one_line() -> None:
    assert wrapped_command("knowsam report run", 80, 4) == "    knowsam report run"
    assert wrapped_command("knowsam report run", 22) == "knowsam report run"
    assert wrapped_command("knowsam report run", 17) == "knowsam report \\\n  run"
