"""Pairs and single texts that go in as they are: BoolQ, CB, RTE and the tasks of GLUE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefixrack_adapters.formats.base import Format
from prefixrack_adapters.formats.fields import Field

TASK = "text-classification"


def pair_format(name: str, first: Field, second: Field, example: tuple[str, str]) -> Format:
    def rewrite(fields: Mapping[str, Any]) -> Any:
        return {"text": fields[first.name], "text_pair": fields[second.name]}

    texts = dict(zip((first.name, second.name), example, strict=True))
    return Format(name, TASK, (first, second), rewrite, texts)


def single_format(name: str, field: Field, example: str) -> Format:
    def rewrite(fields: Mapping[str, Any]) -> Any:
        return {"text": fields[field.name]}

    return Format(name, TASK, (field,), rewrite, {field.name: example})


SENTENCES = (Field("sentence1"), Field("sentence2"))
PREMISE, HYPOTHESIS = Field("premise"), Field("hypothesis")
SLEEPER = ("A man sleeps on a bench.", "Somebody is asleep.")

PAIRS = (
    pair_format(
        "boolq",
        Field("question"),
        Field("passage"),
        ("is the harbour open in winter", "The harbour is open from April to October."),
    ),
    pair_format("cb", PREMISE, HYPOTHESIS, SLEEPER),
    # SuperGLUE and GLUE name the two texts of RTE differently.
    pair_format("rte", Field("premise", aliases=("sentence1",)), Field("hypothesis", aliases=("sentence2",)), SLEEPER),
    pair_format("mnli", PREMISE, HYPOTHESIS, SLEEPER),
    pair_format("mrpc", *SENTENCES, SLEEPER),
    pair_format("stsb", *SENTENCES, SLEEPER),
    pair_format("wnli", *SENTENCES, SLEEPER),
    pair_format("qqp", Field("question1"), Field("question2"), ("How old is Ada?", "What is Ada's age?")),
    pair_format("qnli", Field("question"), Field("sentence"), ("Who sleeps?", "A man sleeps on a bench.")),
    single_format("sst2", Field("sentence"), "a quiet and clever film"),
    single_format("cola", Field("sentence"), "The book was read by everybody."),
)
