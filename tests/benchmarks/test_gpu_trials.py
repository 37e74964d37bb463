"""What is measured on a GPU without a server, and in which order: what matters most is there when time runs out."""

from __future__ import annotations

from gpu import trials
from gpu_shapes import SHAPES


def test_natural_lengths_and_few_rows_of_every_shape_come_first() -> None:
    everything = trials(None, None, None)
    of_all_shapes = [(shape, length, which) for shape in SHAPES for length in (16, 128) for which in ("natural", None)]
    assert everything[: len(of_all_shapes)] == of_all_shapes
    assert everything[0] == ("bert-large", 16, "natural")
    assert len(set(everything)) == len(everything)


def test_data_sets_are_for_every_shape_but_the_deepest_unless_asked_for() -> None:
    rest = [trial for trial in trials(None, None, None) if trial[2] not in ("natural", None)]
    assert {shape for shape, _, _ in rest} == {"bert-large", "roberta-large"}
    assert {which for _, _, which in rest} == {"clinc150", "snli", "squad2"}
    assert ("deberta-xlarge", 16, "snli") in trials(["deberta-xlarge"], [16], ["snli"])


def test_what_is_asked_for_is_all_that_is_measured() -> None:
    asked = trials(["roberta-large"], [16], ["natural"])
    assert asked == [("roberta-large", 16, "natural"), ("roberta-large", 16, None)]
