"""The lines of `quality.py` as a page and a picture: docs/quality.md, quality.svg and sweep.svg. Measures nothing.

A cell is the mean over its seeds at the method's recipe. There is a table for each size of the data sets; of those that
are measured no more, the recipe is the one of their time. All other lines are listed below the tables: what was tried,
whatever came of it.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quality_lines import differences
from quality_sets import DEFAULT_SETS, LOW_RESOURCE, MAX_DEV, MAX_TRAIN, METHODS, SETS
from results_lines import Line, ResultLines

ROOT = Path(__file__).resolve().parent.parent
SHORT = {
    "fine-tuning": "FT",
    "head-only": "head only",
    "prompt-tuning": "PT",
    "p-tuning-v2": "PT-2",
    "multitask": "MPT-2",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Scores in points (0 to 100) of one data set and method, one per seed; `share` of the backbone that is trained."""

    scores: tuple[float, ...]
    share: float
    main: str
    num_train: int
    num_dev: int
    majority: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def shown(self) -> str:
        spread = f" ± {statistics.stdev(self.scores):.1f}" if len(self.scores) > 1 else ""
        return f"{self.mean:.1f}{spread}"


Cells = Mapping[tuple[str, str], Cell]
Sizes = tuple[int, int]
SIZES: Sequence[Sizes] = ((MAX_TRAIN, MAX_DEV), (320, 200))  # at most so many examples of train and dev: today's first
NUM_SEEDS = 3
FEW_SEEDS = "Where fewer than three seeds were run, a run takes one core of a CPU {minutes} minutes or more."


def is_of_table(line: Line, sizes: Sizes) -> bool:
    """Whether a line has these sizes and is at its method's recipe: today's or, for sizes of the past, its time's."""
    setup = line["setup"]
    is_at_recipe = not (differences(line, {}) if sizes == SIZES[0] else setup["changes"])
    return (setup["max_train"], setup["max_dev"]) == sizes and is_at_recipe


def cells_of(lines: Sequence[Line], sizes: Sizes) -> Cells:
    return {key: _cell(members) for key, members in _by_cell(lines, sizes).items()}


def _by_cell(lines: Sequence[Line], sizes: Sizes) -> Mapping[tuple[str, str], Sequence[Line]]:
    grouped: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if is_of_table(line, sizes):
            grouped[line["setup"]["dataset"], line["setup"]["method"]].append(line)
    return grouped


def least_minutes(lines: Sequence[Line], sizes: Sizes) -> float | None:
    """Of the cells with fewer than three seeds, those of a run on a CPU; None where there is no such cell."""
    few = [members for members in _by_cell(lines, sizes).values() if len(members) < NUM_SEEDS]
    on_cpu = [line for members in few for line in members if "NVIDIA" not in line["device"]]
    return min((line["result"]["seconds"] / 60 for line in on_cpu), default=None)


def _cell(lines: Sequence[Line]) -> Cell:
    result, setup = lines[0]["result"], lines[0]["setup"]
    return Cell(
        scores=tuple(100 * line["result"]["score"] for line in lines),
        share=result["num_trained"] / result["num_backbone"],
        main=result["main"],
        num_train=setup["num_train"],
        num_dev=setup["num_dev"],
        majority=100 * result["majority"].get(result["main"], 0.0),
    )


def mean_difference(cells: Cells, method: str, other: str, names: Sequence[str]) -> tuple[float, int] | None:
    """In points, over the data sets that have both, and how many these are."""
    both = [name for name in names if (name, method) in cells and (name, other) in cells]
    if not both:
        return None
    return statistics.fmean(cells[name, method].mean - cells[name, other].mean for name in both), len(both)


def table(cells: Cells, names: Sequence[str]) -> Iterator[str]:
    yield f"| data set | score | train / dev | majority | {' | '.join(SHORT[method] for method in METHODS)} |"
    yield "| --- | --- | ---: | ---: |" + " ---: |" * len(METHODS)
    for name in names:
        row = [cells.get((name, method)) for method in METHODS]
        known = next((cell for cell in row if cell is not None), None)
        if known is None:
            continue
        shown = " | ".join("–" if cell is None else cell.shown for cell in row)
        sizes = f"{known.num_train:,} / {known.num_dev:,}"
        yield f"| {name} | {known.main} | {sizes} | {known.majority:.1f} | {shown} |"
    shares = [[cell.share for (_, one), cell in cells.items() if one == method] for method in METHODS]
    ranges = " | ".join(_percent(share) for share in shares)
    yield f"| *trained parameters, share of the backbone* | | | | {ranges} |"


def _percent(shares: Sequence[float]) -> str:
    if not shares:
        return "–"
    low, high = min(shares), max(shares)
    return f"{low:.2%}" if f"{low:.2%}" == f"{high:.2%}" else f"{low:.2%} to {high:.2%}"


def summary(tables: Sequence[Cells]) -> Iterator[str]:
    """The paper's claims as differences of means, in each table."""
    by_kind = [name for name in DEFAULT_SETS if SETS[name].kind != "classification"]
    claims = (
        ("PT-2 − FT, all data sets", "p-tuning-v2", "fine-tuning", DEFAULT_SETS, "≥ −2.0"),
        ("PT − PT-2, tagging and question answering", "prompt-tuning", "p-tuning-v2", by_kind, "≤ −8.0"),
        ("MPT-2 − PT-2, low-resource NER", "multitask", "p-tuning-v2", LOW_RESOURCE, "≥ 1.0"),
    )
    heads = " | ".join(f"up to {train:,} examples: points | data sets" for train, _ in SIZES)
    yield f"| claim | wanted | {heads} |"
    yield "| --- | ---: |" + " ---: | ---: |" * len(SIZES)
    for text, method, other, names, wanted in claims:
        shown = " | ".join(_difference(cells, method, other, names) for cells in tables)
        yield f"| {text} | {wanted} | {shown} |"


def _difference(cells: Cells, method: str, other: str, names: Sequence[str]) -> str:
    seen = mean_difference(cells, method, other, names)
    return "– | 0" if seen is None else f"{seen[0]:+.1f} | {seen[1]} of {len(names)}"


def tried(lines: Sequence[Line]) -> Iterator[str]:
    """Every line that is in no table."""
    yield "| data set | train / dev | method | other than the recipe | seed | score | best epoch |"
    yield "| --- | ---: | --- | --- | ---: | ---: | ---: |"
    others = [line for line in lines if not any(is_of_table(line, sizes) for sizes in SIZES)]
    for line in sorted(others, key=lambda line: (line["setup"]["dataset"], line["setup"]["method"], -_score(line))):
        setup, result = line["setup"], line["result"]
        changes = ", ".join(f"{name} {value}" for name, value in sorted(differences(line, {}).items())) or "the sizes"
        epochs = f"{result['best_epoch']} of {len(result['history'])}"
        sizes = f"{setup['num_train']:,} / {setup['num_dev']:,}"
        score = f"{_score(line):.1f}"
        cells = (setup["dataset"], sizes, SHORT[setup["method"]], changes, str(setup["seed"]), score, epochs)
        yield f"| {' | '.join(cells)} |"


def _score(line: Line) -> float:
    return 100 * float(line["result"]["score"])


def page(lines: Sequence[Line], picture: str, sweep: str) -> str:
    names = list(DEFAULT_SETS)
    devices = sorted({line["device"] for line in lines})
    current, former = (cells_of(lines, sizes) for sizes in SIZES)
    minutes = least_minutes(lines, SIZES[0])
    return "\n".join(
        [
            "# How good is P-Tuning v2 here",
            "",
            "Written by `benchmarks/quality_table.py` from `benchmarks/results/quality-*.jsonl`, which",
            "`benchmarks/quality.py` measured on the embedded backbone (a BERT of 6 layers, 384 wide).",
            f"Devices: {'; '.join(devices)}.",
            "",
            "FT: the whole backbone is trained. Head only: a linear head on the frozen backbone. PT: a soft prompt at",
            "the input. PT-2: a prefix in every layer. MPT-2: that prefix trained on several data sets together, then",
            "on each alone. Scores are points on dev, the mean over seeds ± standard deviation (no deviation: one",
            "seed); each run keeps its best epoch on dev. A dash is a cell that has not been run.",
            "",
            "Recipes were chosen by the same dev sets with seed 13, those of PT-2 and MPT-2 from more trials than",
            "those of the baselines, all of which are listed below: that favours them, and other data would show",
            "a little less.",
            "",
            f"## Up to {SIZES[0][0]:,} examples",
            "",
            *([] if minutes is None else [FEW_SEEDS.format(minutes=int(minutes)), ""]),
            *table(current, names),
            "",
            f"![Scores by data set and method]({picture})",
            "",
            f"## Up to {SIZES[1][0]:,} examples",
            "",
            "The same with few examples, on a CPU and with the recipes of an earlier commit, which each line names. On",
            "this little data fine-tuning and prefixes alike stay near the majority where a task takes reasoning.",
            "",
            *table(former, names),
            "",
            "## The paper's claims",
            "",
            "From arXiv 2110.07602; the wanted numbers are this project's.",
            "",
            *summary((current, former)),
            "",
            "## What was tried besides",
            "",
            "One line is one run. Settings not named are those of the method's recipe in `benchmarks/quality_sets.py`.",
            "",
            f"![Scores of P-Tuning v2 by learning rate]({sweep})",
            "",
            *tried(lines),
            "",
        ]
    )


def draw(cells: Cells, path: Path) -> None:
    """A row for each data set, a mark for each method."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "prefixrack"
    names = [name for name in DEFAULT_SETS if any((name, method) in cells for method in METHODS)]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(names) + 1.4), layout="constrained")
    for method, marker in zip(METHODS, "s|Do^", strict=True):
        places = [(cells[name, method].mean, row) for row, name in enumerate(names) if (name, method) in cells]
        if places:
            scores, rows = zip(*places, strict=True)
            axes.scatter(scores, rows, marker=marker, s=60, label=SHORT[method])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("score on dev, points")
    axes.grid(axis="x", alpha=0.4)
    axes.legend(ncols=len(METHODS), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


SERIES = (
    ("no dropout, one rate", "o", False, False, False),
    ("no dropout, slower head", "s", False, True, False),
    ("dropout, one rate", "^", True, False, False),
    ("dropout, slower head", "D", True, True, False),
    ("dropout, MLP", "v", True, None, True),
)
SWEPT = 5  # runs of a data set: below, a panel would show nothing


def series_of(line: Line) -> str | None:
    """Which way of training a line stands for in the picture of the sweep."""
    settings = line["setup"]["settings"]
    is_slower = settings["head_learning_rate"] < settings["learning_rate"]
    for name, _, has_dropout, has_slow_head, is_mlp in SERIES:
        same = settings["backbone_dropout"] == has_dropout and (settings["reparameterization"] == "mlp") == is_mlp
        if same and has_slow_head in (None, is_slower):
            return name
    return None


def draw_sweep(lines: Sequence[Line], path: Path) -> None:
    """P-Tuning v2: a panel for each data set that was swept, score against learning rate, the prefix length beside."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "prefixrack"
    by_set: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line["setup"]["method"] == "p-tuning-v2" and series_of(line) is not None:
            by_set[line["setup"]["dataset"]].append(line)
    panels = {name: members for name, members in by_set.items() if len(members) >= SWEPT}
    figure, all_axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 4.2), layout="constrained", squeeze=False)
    for axes, (name, members) in zip(all_axes[0], panels.items(), strict=True):
        for title, marker, *_ in SERIES:
            own = [line for line in members if series_of(line) == title]
            rates = [line["setup"]["settings"]["learning_rate"] for line in own]
            axes.scatter(rates, [_score(line) for line in own], marker=marker, s=40, label=title, alpha=0.8)
            for line, rate in zip(own, rates, strict=True):
                length = str(line["setup"]["settings"]["prefix_len"])
                axes.annotate(length, (rate, _score(line)), xytext=(5, 3), textcoords="offset points", fontsize=7)
        axes.set_xscale("log")
        axes.set_title(name)
        axes.set_xlabel("learning rate (numbers: prefix length)")
        axes.grid(alpha=0.3)
    all_axes[0][0].set_ylabel("score on dev, points")
    handles, titles = all_axes[0][0].get_legend_handles_labels()
    figure.legend(handles, titles, ncols=len(SERIES), loc="outside upper center", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--results", type=Path, action="append", help="quality-*.jsonl of benchmarks/results by default"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    paths = arguments.results or sorted((ROOT / "benchmarks" / "results").glob("quality-*.jsonl"))
    lines = ResultLines.read(paths).lines
    arguments.docs.mkdir(exist_ok=True)
    (arguments.docs / "quality.md").write_text(page(lines, "quality.svg", "sweep.svg"), encoding="utf-8")
    draw(cells_of(lines, SIZES[0]), arguments.docs / "quality.svg")
    draw_sweep(lines, arguments.docs / "sweep.svg")


if __name__ == "__main__":
    main()
