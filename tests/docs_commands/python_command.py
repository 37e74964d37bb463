"""`python`: the benchmarks, at their smallest sizes. One that needs what is not here meets its own parser alone."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from docs_commands import WrongCommand
from docs_commands.parsing import parse
from docs_commands.unrun import UNRUN
from peer_process import PEERS


class Small(NamedTuple):
    """Options that are added: `sizes` in any case, `choice` where the command leaves it open and would take all."""

    sizes: str
    choice: str = ""


FEW_ROWS: Final = "--rows 4 --num-adapters 4"
TINY: Final = "--backbone base"  # of two layers, in the reader's folder
ALONE: Final = " ".join(f"--without {peer}" for peer in PEERS)  # they are in virtual environments of their own
SMALL: Final[Mapping[str, Small]] = {
    "churn": Small("--seconds 1 --min-answers 10 --versions 40 --adapters 12 --clients 4"),
    "contest": Small(f"{FEW_ROWS} {ALONE} --backbone minilm --rounds 1 --num-sets 1"),
    "fuzz": Small("--minutes 0.1"),
    "gpu_page": Small("--page page.md"),
    "large_registry": Small(f"{TINY} --num-adapters 200 --rounds 1 --starts 1", "--database sqlite"),
    "precision": Small("--rows 2", "--family bert"),
    "quality": Small(
        f"{TINY} --max-train 4 --max-dev 4 --change epochs=1 --results quality.jsonl",
        "--set snli --method p-tuning-v2 --seed 13",
    ),
    "quality_table": Small("--docs ."),
    "throughput": Small(f"{FEW_ROWS} {TINY} --iterations 1", "--path engine --workload distinct"),
    "training": Small(f"{TINY} --rounds 1 --steps 1", "--histogram equal --dtype float32"),
}
# With their result printed these end with 1 where a bound is missed, which here says nothing: others use the machine.
JUDGES: Final = ("fuzz", "large_registry")
USAGE_ERROR: Final = 2


def run(arguments: Sequence[str]) -> int:
    script, *options = arguments
    if not Path(script).is_file():
        raise WrongCommand(f"there is no {script}")
    name = Path(script).stem
    if is_unrun(name, options):
        return parse(script, options)
    sys.argv = [script, *scaled_down(name, options)]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if name not in JUDGES or ended.code == USAGE_ERROR:
            raise
    return 0


def is_unrun(name: str, options: Sequence[str]) -> bool:
    """For the script's own sake, or that of one of its options."""
    return not UNRUN.keys().isdisjoint((f"{name}.py", *(f"{name}.py {option}" for option in options)))


def scaled_down(name: str, options: Sequence[str]) -> list[str]:
    small = SMALL[name]
    words = small.choice.split()
    left_open = [pair for pair in zip(words[::2], words[1::2], strict=True) if pair[0] not in options]
    return [*options, *small.sizes.split(), *(word for pair in left_open for word in pair)]
