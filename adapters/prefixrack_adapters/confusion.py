"""The confusion matrix: which labels are taken for which. Knows names and counts; draws with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixrack_adapters.single_files import check_place, replaced

KINDS = (".svg", ".png")
MOST_CLASSES = 40
MOST_WITH_NUMBERS = 15
FAILED_NAME = "(failed)"


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """`counts[i, j]` inputs of label i were given label j."""

    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    def as_json(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "counts": self.counts.tolist()}

    def largest(self, num_classes: int) -> Confusion:
        """Only the classes with the most inputs and answers, in the order they have here."""
        weight = self.counts.sum(axis=0) + self.counts.sum(axis=1)
        kept = np.sort(np.argsort(-weight, kind="stable")[:num_classes])
        return Confusion(tuple(self.labels[index] for index in kept), self.counts[np.ix_(kept, kept)])


def confusion_of(gold: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> Confusion:
    """`names` are all labels that occur, in order; "" stands for inputs that failed."""
    place = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, ([place[name] for name in gold], [place[name] for name in predicted]), 1)
    return Confusion(tuple(name or FAILED_NAME for name in names), counts)


def check_picture(path: Path) -> None:
    """Raises InvalidRequest before any work is done for a picture that could not be written."""
    check_place(path, KINDS, "picture")


def draw_confusion(confusion: Confusion, path: Path, title: str) -> None:
    """Write the matrix as a picture, each row shaded by its shares; of many classes the largest only.

    The same matrix gives the same bytes. Raises InvalidRequest where the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = confusion.largest(MOST_CLASSES)
    hidden = len(confusion.labels) - len(shown.labels)
    size = 2.5 + 0.3 * len(shown.labels)
    with rc_context({"svg.hashsalt": "prefixrack", "svg.fonttype": "none"}):
        figure = Figure(figsize=(size + 1, size), layout="constrained")
        _fill(figure.add_subplot(), shown, title + (f"\n({hidden} smaller classes left out)" if hidden else ""))
        with replaced(path) as partial:
            figure.savefig(partial, metadata={"Date": None} if path.suffix.lower() == ".svg" else None, dpi=120)


def _fill(axes: Any, confusion: Confusion, title: str) -> None:
    counts, labels = confusion.counts, confusion.labels
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=90, fontsize=8)
    axes.set_yticks(places, labels, fontsize=8)
    axes.set(xlabel="predicted", ylabel="gold", title=title)
    if len(labels) <= MOST_WITH_NUMBERS:
        for row, column in np.ndindex(counts.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
