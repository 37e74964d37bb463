"""The lines that `quality.py` writes and `quality_table.py` reads: how far one is from the recipe of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefixrack_adapters.training.settings import LEARNING_RATES, TrainSettings
from quality_sets import SETS, recipe
from results_lines import Line


def expected(setup: Line, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the recipe, with these changes, for what a line measured."""
    method = setup["method"]
    wanted = recipe(method, SETS[setup["dataset"]], setup["num_train"]) | dict(changes)
    rate = wanted.get("learning_rate", LEARNING_RATES[method])
    rates = {"learning_rate": rate, "head_learning_rate": wanted.get("head_learning_rate", rate)}
    defaults = {name: field.default for name, field in TrainSettings.model_fields.items()}
    return defaults | {"max_len": SETS[setup["dataset"]].max_len} | wanted | rates


def differences(line: Line, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a line was measured with that is not the recipe with these changes.

    It was asked for, or the recipe was another one at that time.
    """
    wanted = expected(line["setup"], changes)
    seen = line["setup"]["settings"] | line["setup"]["changes"]
    unused = {"reparameterization_size"} if seen["reparameterization"] == "none" else set()
    return {name: value for name, value in seen.items() if name not in unused and value != wanted.get(name)}
