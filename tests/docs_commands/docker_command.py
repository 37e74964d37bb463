"""`docker`, without a daemon: what the command names is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from docs_commands import WrongCommand

COMPOSE, DOCKERFILE = Path("compose.yaml"), Path("Dockerfile")


def run(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["build", *_, folder]:
            _must_exist(folder / DOCKERFILE)
        case ["run", *options, _image]:
            _check_container(options)
        case ["compose", "up", *_]:
            _must_exist(COMPOSE)
        case _:
            raise WrongCommand("say in docs_commands/docker_command.py what to look at")
    return 0


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise WrongCommand(f"there is no {path}")


def _check_container(options: Sequence[str]) -> None:
    """Its ports and volumes are those of the Dockerfile."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    ports = re.findall(r"^EXPOSE (\d+)", text, re.MULTILINE)
    volumes = re.findall(r'"([^"]+)"', " ".join(re.findall(r"^VOLUME (.*)", text, re.MULTILINE)))
    known = {"-p": ports, "-v": volumes}
    for option, value in pairwise(options):
        inner = value.rpartition(":")[2]
        if option in known and inner not in known[option]:
            raise WrongCommand(f"the Dockerfile has no {inner}: {', '.join(known[option])}")
