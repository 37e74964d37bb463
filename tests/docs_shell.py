"""A shell for the documentation's commands: in a folder of its own, with the commands of docs_commands alone.

A command that serves keeps its terminal: the next blocks go to another one, and Ctrl-C ends it in the end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import docs_commands
from docs_commands import AS_THEY_ARE, STARTED
from docs_commands.foreground import SERVING_FILE
from docs_workplace import VENV
from real_parts import missing, program

# What a block sets, the next one on the page has.
SCRIPT = """set -euo pipefail
trap 'echo "the line that failed: $BASH_COMMAND" >&2' ERR
command_not_found_handle() {{
    echo "the tests do not know the command $1: name it in tests/docs_commands, in AS_THEY_ARE or STARTED" >&2
    return 127
}}
if [[ -f {state} ]]; then source {state} 2>/dev/null || true; fi
export PREFIXRACK_BASE_URL={base_url}
{commands}
{{ declare -p $(compgen -v | grep -E '^([a-z_]+|PREFIXRACK_.*)$'); }} > {state}
"""
CURL = """#!/bin/bash
exec {curl} --fail-with-body --silent --show-error "$@"
"""
# A Makefile may have set PYTHONPATH, which is for processes that the command starts.
START = """#!/bin/bash
PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{path}" exec {python} -I -S {caller} {nursery} {name} "$@"
"""
A_KEY = "pr_a_b"  # the tiny server asks for none
YES = "y\n" * 9  # a command that asks whether one is sure
NEEDED_BY_COMMANDS = ("git", "grep", "mkdir")
OF_THE_ENVIRONMENT = ("prefixrack", "python")
CALLER = Path(docs_commands.__file__).with_name("caller.py")
TIMEOUT_S = 600.0
POLL_S = 0.02
# Pages whose later blocks are about the server that an earlier one started.
KEEP_SERVING = ("README.md", "docs/quickstart.md", "docs/training.md")


@dataclass(frozen=True)
class Terminal:
    """One block's. What it prints is in `output`; `serving` appears once a command of it serves."""

    process: subprocess.Popen[bytes]
    output: Path
    serving: Path

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    @property
    def facts(self) -> Mapping[str, object]:
        facts: Mapping[str, object] = json.loads(self.serving.read_text(encoding="utf-8"))
        return facts

    def printed(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def await_end_or_service(self) -> None:
        give_up_at = time.monotonic() + TIMEOUT_S
        while not (self.is_over or self.serving.exists()):
            assert time.monotonic() < give_up_at, f"it takes longer than {TIMEOUT_S:.0f} s: {self.printed()[-4000:]}"
            time.sleep(POLL_S)

    def press_ctrl_c(self) -> None:
        """The command that serves ends, and ends well."""
        os.kill(int(str(self.facts["pid"])), signal.SIGINT)
        self.process.wait(TIMEOUT_S)
        self.check()

    def check(self) -> None:
        assert self.process.returncode == 0, self.printed()[-6000:]

    def kill(self) -> None:
        """With all that it started, where a test fails."""
        if not self.is_over:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class DocsShell:
    """One reader's terminals, for one page."""

    def __init__(
        self, page: str, folder: Path, programs: Path, base_url: str, nursery: Path, environment: Mapping[str, str]
    ) -> None:
        self.base_url = base_url
        self.api_key = A_KEY
        self._page = page
        self._folder = folder
        self._programs = programs
        self._terminals: list[Terminal] = []
        _write_programs(programs, folder / VENV, nursery)
        self._environment = {
            "PATH": str(programs),
            "HOME": str(folder),
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
            "GPU_PYTHON": "python",
            "PREFIXRACK_API_KEY": A_KEY,
            "PREFIXRACK_DATA": str(folder),
            "DOCS_PAGE": page,
            **environment,
        }

    def run(self, commands: str) -> None:
        """Raises AssertionError with what the shell said where a command fails."""
        _check_parts(commands)
        terminal = self._open(commands)
        terminal.await_end_or_service()
        if terminal.is_over:
            terminal.check()
        elif self._page in KEEP_SERVING:
            self._use(terminal)
        else:
            terminal.press_ctrl_c()

    def end(self) -> None:
        """Nothing serves any more."""
        for terminal in self._terminals:
            if not terminal.is_over:
                terminal.press_ctrl_c()

    def kill(self) -> None:
        for terminal in self._terminals:
            terminal.kill()

    def _use(self, terminal: Terminal) -> None:
        """From now on. Whoever starts another server has ended the one before, for they have one port between them."""
        for other in self._terminals:
            if other is not terminal and not other.is_over:
                other.press_ctrl_c()
        self.base_url = str(terminal.facts["base_url"])
        printed = re.search(r"PREFIXRACK_API_KEY=(\S+)", terminal.printed())
        self.api_key = printed[1] if printed is not None else A_KEY

    def _open(self, commands: str) -> Terminal:
        number = len(self._terminals)
        place = self._programs / f"terminal-{number}"
        place.mkdir()
        (place / "typed").write_text(YES)
        state = self._programs / "state"
        script = SCRIPT.format(state=state, commands=commands, base_url=self.base_url)
        with (place / "typed").open("rb") as typed, (place / "output").open("wb") as output:
            process = subprocess.Popen(
                ["/bin/bash", "-c", script],
                cwd=self._folder,
                env=self._environment | {SERVING_FILE: str(place / "serving")},
                stdin=typed,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        terminal = Terminal(process, place / "output", place / "serving")
        self._terminals.append(terminal)
        return terminal


def _check_parts(commands: str) -> None:
    """What no Python package of the extra `dev` brings: without it, the page's test is skipped, or in CI fails."""
    if re.search(r"^helm ", commands, re.MULTILINE):
        program("helm")
    if re.search(r"\bserve run |\[ray\]", commands, re.MULTILINE) and find_spec("ray") is None:
        missing("ray is not installed: make ray")


def _write_programs(folder: Path, environment: Path, nursery: Path) -> None:
    """`environment` is the virtual one in which the Makefile looks for its own."""
    folder.mkdir()
    for name in (*AS_THEY_ARE, *NEEDED_BY_COMMANDS):
        (folder / name).symlink_to(program(name, f"apt-get install {name}"))
    _write(folder / "curl", CURL.format(curl=program("curl", "apt-get install curl")))
    path = os.pathsep.join(filter(None, sys.path))
    for name in STARTED:
        start = START.format(path=path, python=sys.executable, caller=CALLER, nursery=nursery, name=name)
        _write(folder / name, start)
    for name in OF_THE_ENVIRONMENT:
        (environment / "bin" / name).symlink_to(folder / name)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@contextmanager
def running_nursery() -> Iterator[Path]:
    """The socket of a new one; with it end all commands that are left."""
    with tempfile.TemporaryDirectory(prefix="docs-") as folder:  # sockets have short paths
        path = Path(folder) / "nursery"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        command = (sys.executable, "-P", "-W", "ignore", "-m", "docs_commands.nursery", str(path))
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True) as process:
            try:
                while not path.exists():
                    assert process.poll() is None, "it has ended"
                    time.sleep(POLL_S)
                yield path
            finally:
                os.killpg(process.pid, signal.SIGKILL)
