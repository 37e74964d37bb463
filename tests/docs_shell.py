"""A shell for the documentation's commands: in a folder of its own, with stand-ins for what cannot run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import docs_stand_ins
from real_parts import program

# What a block sets, the next one on the page has.
SCRIPT = """set -euo pipefail
trap 'echo "the line that failed: $BASH_COMMAND" >&2' ERR
command_not_found_handle() {{
    echo "the tests do not know the command $1: name it in tests/docs_stand_ins.py, in RUN if it can run, else in" >&2
    echo "CHECKED with what is looked at instead, and why" >&2
    return 127
}}
if [[ -f {state} ]]; then source {state} 2>/dev/null || true; fi
{commands}
{{ declare -p $(compgen -v | grep -E '^([a-z_]+|PREFIXRACK_.*)$'); }} > {state}
"""
CURL = """#!/bin/bash
exec {curl} --fail-with-body --silent --show-error "$@"
"""
STAND_IN = """#!/bin/bash
exec {python} -W ignore {script} {program} "$@"
"""
A_KEY = "pr_a_b"  # the tiny server asks for none
YES = "y\n" * 9  # a command that asks whether one is sure
NEEDED_BY_THE_SHELL = ("grep",)


class DocsShell:
    """One reader's terminal, for one page."""

    def __init__(self, page: str, folder: Path, programs: Path, base_url: str, backbone: Path) -> None:
        self._page = page
        self._folder = folder
        self._state = programs / f"{page.replace('/', '-')}.state"
        self._base_url = base_url
        _write_programs(programs)
        self._environment = {
            "PATH": str(programs),
            "HOME": str(folder),
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
            "PREFIXRACK_BASE_URL": base_url,
            "PREFIXRACK_API_KEY": A_KEY,
            "PREFIXRACK_DATA": str(folder),
            "DOCS_PAGE": page,
            "DOCS_BACKBONE": str(backbone),
        }

    def run(self, commands: str) -> None:
        """Raises AssertionError with what the shell said where a command fails."""
        script = SCRIPT.format(state=self._state, commands=commands)
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            cwd=self._folder,
            env=self._environment,
            input=YES,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-4000:]}"


def _write_programs(folder: Path) -> None:
    folder.mkdir()
    for name in (*docs_stand_ins.RUN, *NEEDED_BY_THE_SHELL):
        (folder / name).symlink_to(program(name, f"apt-get install {name}"))
    _write(folder / "curl", CURL.format(curl=program("curl", "apt-get install curl")))
    script = Path(docs_stand_ins.__file__)
    for name in ("prefixrack", *docs_stand_ins.CHECKED):
        _write(folder / name, STAND_IN.format(python=sys.executable, script=script, program=name))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
