"""Writes README.md beside it from what the training runs measured, and into the cards what the runs do not know.

That is the baseline's line and how the data was chosen. No score there is typed by hand.

    python adapters/examples/make_readme.py [--check]

Reads `<name>/metrics.json` (the adapter's run), `baselines/<name>.json` (full fine-tuning, where it was run) and
`data.json`.
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
`METHOD=fine-tuning METHOD_OPTIONS="--epochs 3 --learning-rate RATE"` it measures the baselines, whose rates are in
`baselines/`.
"""


BASELINE = "The whole backbone fine-tuned"
SOURCE, ALSO_FROM, CHOSEN = "- Source:", "- Also from:", "- Chosen:"
DATA_LINES = (ALSO_FROM, CHOSEN)


@dataclass(frozen=True)
class Line:
    name: str
    manifest: dict[str, Any]
    report: dict[str, Any]
    baseline: dict[str, Any] | None
    data: dict[str, Any]

    @property
    def tuned(self) -> float | None:
        return None if self.baseline is None else self.baseline["scores"][self.report["main"]]

    @property
    def gap_closed(self) -> str:
        main, tuned = self.report["main"], self.tuned
        majority = self.report["majority"][main]
        return "–" if tuned is None else f"{(self.report['scores'][main] - majority) / (tuned - majority):.0%}"

    def card(self) -> str:
        """The card with the baseline's line in front of its section on data, and the data's lines after its source."""
        text = (FOLDER / self.name / "README.md").read_text().split("\n")
        kept = [line for line in text if not line.startswith((BASELINE, *DATA_LINES))]
        after_source = next(index for index, line in enumerate(kept) if line.startswith(SOURCE)) + 1
        kept[after_source:after_source] = self.data_lines()
        return self.with_baseline("\n".join(kept))

    def data_lines(self) -> list[str]:
        also = [f"{ALSO_FROM} {source}" for source in self.data.get("also_from", [])]
        return [*also, f"{CHOSEN} {self.data['chosen']}"]

    def with_baseline(self, card: str) -> str:
        if self.baseline is None:
            return card
        before, _, after = card.partition("\n\n## Data\n")
        line = (
            f"{BASELINE} (3 epochs, learning rate {self.baseline['learning_rate']:g}): {self.report['main']} "
            f"{self.tuned:.4f}; the adapter closes {self.gap_closed} of the gap between majority and that."
        )
        return f"{before.rstrip()}\n\n{line}\n\n## Data\n{after}"

    def cells(self) -> list[str]:
        main, tuned = self.report["main"], self.tuned
        score, majority = self.report["scores"][main], self.report["majority"][main]
        return [
            f"[{self.name}]({self.name}/README.md)",
            self.manifest["task"],
            self.manifest["metrics"][0]["dataset"],
            main,
            f"{score:.3f}",
            f"{self.report['without_prefix'][main]:.3f}",
            f"{majority:.3f}",
            "–" if tuned is None else f"{tuned:.3f}",
            self.gap_closed,
            f"{self.report['num_trained'] / self.report['num_backbone']:.2%}",
        ]


def lines() -> list[Line]:
    found, data = [], json.loads((FOLDER / "data.json").read_text())
    for path in sorted(FOLDER.glob("*/metrics.json")):
        folder, baseline = path.parent, FOLDER / "baselines" / f"{path.parent.name}.json"
        manifest = json.loads((folder / "adapter.json").read_text())
        tuned = json.loads(baseline.read_text()) if baseline.is_file() else None
        found.append(Line(folder.name, manifest, json.loads(path.read_text()), tuned, data[folder.name]))
    return found


def render() -> str:
    heads = ["adapter", "task", "data", "score", "adapter's", "prefix removed", "majority", "fine-tuned"]
    heads += ["gap closed", "trained parameters"]
    rows = ["| " + " | ".join(heads) + " |", "|" + " --- |" * 4 + " ---: |" * 6]
    rows += ["| " + " | ".join(line.cells()) + " |" for line in lines()]
    return INTRODUCTION + "\n".join(rows) + "\n" + CLOSING


def main() -> None:
    wanted = {README: render()} | {FOLDER / line.name / "README.md": line.card() for line in lines()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv:
        sys.exit(f"out of date, run make_readme.py: {', '.join(map(str, stale))}" if stale else 0)
    for path in stale:
        path.write_text(wanted[path])


if __name__ == "__main__":
    main()
