"""Writes README.md beside it from what the training runs measured, so that no number there is typed by hand.

    python adapters/examples/make_readme.py [--check]

Reads `<name>/metrics.json` (the adapter's run) and `baselines/<name>.json` (full fine-tuning, where it was run).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
INTRODUCTION = """# Example adapters

Trained by this project's own trainer on openly licensed data, for the backbone inside the `demo` extra (a BERT of
6 layers, 384 wide). `make demo` serves them. Each folder is a bundle (`adapter.json`, `adapter.safetensors`) with its
card and the trainer's `metrics.json`; the cards name data, source commit, checksums, licence, seed and command.

Scores are on the dev split. *Majority* is the best constant answer; *prefix removed* is the same head on the bare
backbone; *fine-tuned* is the whole backbone trained for 3 epochs on the same data; *gap closed* is
(adapter − majority) / (fine-tuned − majority).

"""
CLOSING = """
`train.sh` here trains them again (`PREFIXRACK_DATA` names the folder with the data sets); with
`METHOD=fine-tuning METHOD_OPTIONS="--epochs 3 --learning-rate 5e-5"` it measures the baselines.
"""


@dataclass(frozen=True)
class Line:
    name: str
    manifest: dict[str, Any]
    report: dict[str, Any]
    baseline: dict[str, Any] | None

    def cells(self) -> list[str]:
        main = self.report["main"]
        score, majority = self.report["scores"][main], self.report["majority"][main]
        tuned = self.baseline["scores"][main] if self.baseline is not None else None
        gap = "–" if tuned is None else f"{(score - majority) / (tuned - majority):.0%}"
        return [
            f"[{self.name}]({self.name}/README.md)",
            self.manifest["task"],
            self.manifest["metrics"][0]["dataset"],
            main,
            f"{score:.3f}",
            f"{self.report['without_prefix'][main]:.3f}",
            f"{majority:.3f}",
            "–" if tuned is None else f"{tuned:.3f}",
            gap,
            f"{self.report['num_trained'] / self.report['num_backbone']:.2%}",
        ]


def lines() -> list[Line]:
    found = []
    for path in sorted(FOLDER.glob("*/metrics.json")):
        folder, baseline = path.parent, FOLDER / "baselines" / f"{path.parent.name}.json"
        manifest = json.loads((folder / "adapter.json").read_text())
        tuned = json.loads(baseline.read_text()) if baseline.is_file() else None
        found.append(Line(folder.name, manifest, json.loads(path.read_text()), tuned))
    return found


def render() -> str:
    heads = ["adapter", "task", "data", "score", "adapter's", "prefix removed", "majority", "fine-tuned"]
    heads += ["gap closed", "trained parameters"]
    rows = ["| " + " | ".join(heads) + " |", "|" + " --- |" * 4 + " ---: |" * 6]
    rows += ["| " + " | ".join(line.cells()) + " |" for line in lines()]
    return INTRODUCTION + "\n".join(rows) + "\n" + CLOSING


def main() -> None:
    if "--check" in sys.argv:
        sys.exit(0 if README.read_text() == render() else "README.md is out of date: run make_readme.py")
    README.write_text(render())


if __name__ == "__main__":
    main()
