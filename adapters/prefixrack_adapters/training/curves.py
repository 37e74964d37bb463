"""Pictures of training: the curves of a run, and a study's scores by setting. Knows numbers and names; no training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Text stays text, and equal numbers give equal bytes.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "prefixrack",
    "font.size": 10,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
}
MEAN_OF_SETS = "mean score of all sets"
MOST_EPOCHS_MARKED = 20
MOST_LOSSES_MARKED = 30
MOST_LINES = 10  # as many colours as the default cycle has
WIDE_RANGE = 8.0  # settings whose values lie further apart than by this factor are drawn on a logarithmic axis

Log = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of a study: its swept settings, its mean dev score and that score's standard deviation."""

    settings: Mapping[str, Any]
    mean: float
    deviation: float | None


def draw_curves(log: Log, best_epoch: int, path: Path, title: str, metric: str) -> None:
    """Training loss by step above, dev score by epoch below, from a Trainer's log (entries with `loss`, `eval_main`).

    `best_epoch` counts from 1. A log without losses has the lower panel only.
    """
    losses = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    scores = [(entry["step"], entry["eval_main"]) for entry in log if "eval_main" in entry]
    is_mean = any("/" in name for entry in log for name in entry if name.startswith("eval_"))
    with _picture(path, width=7, height=5 if losses else 3) as figure:
        panels = figure.subplots(2 if losses else 1, 1, sharex=True, squeeze=False)[:, 0]
        if losses:
            mark = "." if len(losses) <= MOST_LOSSES_MARKED else None
            panels[0].plot(*zip(*losses, strict=True), color="C0", linewidth=1.2, marker=mark)
            panels[0].set_ylabel("training loss")
        _fill_scores(panels[-1], scores, best_epoch)
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
        panels[-1].set_xlim(left=0)
        panels[-1].set(xlabel="step", ylabel=f"dev: {MEAN_OF_SETS if is_mean else metric}")
        panels[0].set_title(title)


def _fill_scores(axes: Any, scores: Sequence[tuple[float, float]], best_epoch: int) -> None:
    steps, values = zip(*scores, strict=True)
    best_step, best = scores[best_epoch - 1]
    axes.plot(steps, values, color="C1", marker="o", markersize=4)
    axes.plot([best_step], [best], color="C3", marker="*", markersize=13, linestyle="none")
    axes.axvline(best_step, color="C3", linewidth=0.8, linestyle=":")
    align = "right" if best_epoch > len(values) / 2 else "left"
    label = f"epoch {best_epoch}: {best:.4f}"
    # no score is above the best: there the label covers nothing
    axes.annotate(label, (best_step, best), (0, 13), textcoords="offset points", color="C3", ha=align, va="center")
    axes.margins(y=0.25)
    every = -(-len(steps) // MOST_EPOCHS_MARKED)
    above = axes.secondary_xaxis("top")
    above.set_xticks(steps[every - 1 :: every], [str(number) for number in range(every, len(steps) + 1, every)])
    above.tick_params(labelsize=8)
    above.set_xlabel("epoch", fontsize=8)


def draw_study(points: Sequence[Point], best: Mapping[str, Any], path: Path, title: str, metric: str) -> None:
    """One panel for each swept setting: mean dev score and deviation by its value, a line for each value of the others.

    `points` are the combinations that have a score; `best` is the chosen one's settings. Without any swept setting
    there is nothing to draw an axis by, and nothing is written.
    """
    names = list(points[0].settings) if points else []
    if not names:
        return
    num_lines = max(len(_lines(points, name)) for name in names)
    with _picture(path, width=1 + 4.6 * len(names), height=3.8 + 0.2 * num_lines) as figure:
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            _fill_setting(axes, points, name, best)
        panels[0].set_ylabel(f"dev: {metric}")
        figure.suptitle(title, fontsize=12)


def _fill_setting(axes: Any, points: Sequence[Point], name: str, best: Mapping[str, Any]) -> None:
    values = _in_order(point.settings[name] for point in points)
    is_numeric = all(isinstance(value, int | float) for value in values)
    places = {value: value if is_numeric else index for index, value in enumerate(values)}
    lines = _lines(points, name)
    for label, line in lines.items():
        shown = sorted(line, key=lambda point: places[point.settings[name]])
        where = [places[point.settings[name]] for point in shown]
        spread = [point.deviation or 0.0 for point in shown]
        means = [point.mean for point in shown]
        axes.errorbar(where, means, yerr=spread, marker="o", markersize=4, capsize=3, linewidth=1.2, label=label)
    chosen = next(point.mean for point in points if point.settings == best)
    axes.plot([places[best[name]]], [chosen], color="black", marker="*", markersize=12, linestyle="none", zorder=5)
    if is_numeric and min(values) > 0 and max(values) / min(values) > WIDE_RANGE:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks([places[value] for value in values], [str(value) for value in values])
    axes.margins(x=0.08 if is_numeric else 0.2)
    axes.set_xlabel(name)
    if any(lines):
        hidden = len({_others(point, name) for point in points}) - len(lines)
        heading = f"({hidden} lines with lower scores left out)" if hidden > 0 else None
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "frameon": False}
        axes.legend(fontsize=8, title=heading, title_fontsize=8, **below)


def _lines(points: Sequence[Point], name: str) -> dict[str, list[Point]]:
    """The points by the values of all other settings, "" where there are none: of many the highest."""
    highest = sorted(points, key=lambda point: -point.mean)
    kept = list(dict.fromkeys(_others(point, name) for point in highest))[:MOST_LINES]
    lines: dict[str, list[Point]] = {}
    for point in points:
        if _others(point, name) in kept:
            lines.setdefault(_others(point, name), []).append(point)
    return lines


def _others(point: Point, name: str) -> str:
    return in_words({other: value for other, value in point.settings.items() if other != name})


def in_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _in_order(values: Iterator[Any]) -> list[Any]:
    """Each once: numbers by size, names as they come."""
    once = list(dict.fromkeys(values))
    return sorted(once) if all(isinstance(value, int | float) for value in once) else once


@contextmanager
def _picture(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure to fill, `width` by `height` inches, written to `path` at the end."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
