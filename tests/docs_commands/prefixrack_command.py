"""`prefixrack`: the real command. What serves is left running, what draws or asks is used at a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from docs_commands import foreground, terminal
from docs_commands.terminal import CTRL_C, CTRL_D, Turn
from serve_process import PREFIXRACK

# Pages whose training runs to its end and must keep what it promises. On all others one epoch is enough.
TRAINED_TO_THE_END = ("README.md", "docs/quickstart.md")
# Pages whose commands train and measure often: on the backbone of two layers that lies in the reader's folder.
ON_A_TINY_BACKBONE = ("docs/training.md",)
TINY = ("--backbone", "base")
CARDS = "adapters/examples/"
SECONDS_OF_LOAD = ("--duration", "1")

TURNS: Mapping[str, Sequence[Turn]] = {
    "playground": (Turn("text", "what is my balance\r"), Turn(r"\d\.\d{3}", CTRL_D)),
    "top": (Turn("req/s", CTRL_C),),
}


def run(arguments: Sequence[str]) -> int:
    name = arguments[0]
    words = scaled_down(os.environ["DOCS_PAGE"], list(arguments))
    if name in ("serve", "demo"):
        words, port = foreground.on_a_free_port(words)
        return foreground.serve([*PREFIXRACK, *words], port, "/health/ready")
    if name in TURNS:
        return terminal.use([*PREFIXRACK, *words], TURNS[name])
    return _run_here(words)


def _run_here(arguments: Sequence[str]) -> int:
    from prefixrack.cli.app import main

    sys.argv = ["prefixrack", *arguments]
    main()
    return 0


def scaled_down(page: str, arguments: list[str]) -> list[str]:
    """The same command in seconds, and in a place of its own."""
    scale = SCALES.get(arguments[0])
    arguments = arguments if scale is None else scale(page, arguments)
    loads_one = arguments[0] in ("train", "evaluate", "serve") and "--server" not in arguments
    return [*arguments, *TINY] if page in ON_A_TINY_BACKBONE and loads_one else arguments


def _train(page: str, arguments: list[str]) -> list[str]:
    if page in TRAINED_TO_THE_END:
        return arguments
    epochs = [name for name in ("--epochs", "--tune-epochs") if name == "--epochs" or name in arguments]
    # The reader of a card has the bundle that it is the card of.
    again = ["--overwrite"] if page.startswith(CARDS) else []
    return [*arguments, *(word for name in epochs for word in (name, "1")), *again]


def _promote(page: str, arguments: list[str]) -> list[str]:
    """After one epoch there is a score, and no promise of how high."""
    if page not in ON_A_TINY_BACKBONE:
        return arguments
    return [re.sub(r">=.*", ">=0", argument) for argument in arguments]


def _restore(_page: str, arguments: list[str]) -> list[str]:
    """Into an empty registry, as the page says."""
    if "--check" in arguments:
        return arguments
    for name in ("DATABASE_URL", "BLOBS_URL"):
        os.environ.pop(f"PREFIXRACK_REGISTRY__{name}", None)
    return [*arguments, "--state-dir", "an-empty-one"]


SCALES: Mapping[str, Callable[[str, list[str]], list[str]]] = {
    "train": _train,
    "promote": _promote,
    "restore": _restore,
    "bench": lambda _page, arguments: [*arguments, *SECONDS_OF_LOAD],
}
