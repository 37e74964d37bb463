"""What the documentation trains and measures on: a few rows of ours, in the form of the data sets that it names."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]
SAYINGS = {"on": "switch the {} on", "off": "no more {}"}
THINGS = ("lamp", "radio", "heating", "fan", "music", "pump")
SWITCHES: Rows = [
    {"text": saying.format(thing), "label": label} for label, saying in SAYINGS.items() for thing in THINGS
]
PLACES = ("london", "paris", "oslo", "rome")
PAIRS: Rows = [
    {"premise": "a cat sat", "hypothesis": f"a {label} sat", "label": label}
    for label in ("cat", "dog")
    for _ in range(4)
]
# By the names that they have below $PREFIXRACK_DATA.
DATA_SETS: Mapping[str, Rows] = {
    "clinc150": [
        {"text": text, "label": label}
        for place in PLACES
        for text, label in ((f"what is the weather in {place}", "weather"), (f"book a table in {place}", "reservation"))
    ],
    "ecare": [
        {
            "premise": f"The street in {place} was wet.",
            "choice1": "It had rained.",
            "choice2": "The sun shone.",
            "question": "cause",
            "label": 0,
        }
        for place in PLACES
    ],
    "fewnerd_inter": [
        {"tokens": ["she", "lives", "in", place], "tags": ["O", "O", "O", "B-location"]} for place in PLACES
    ],
    "goemotions": [
        {"text": f"{place}, at last", "labels": labels}
        for place, labels in zip(PLACES, (["joy"], ["neutral"], ["joy", "neutral"], ["neutral"]), strict=True)
    ],
    "snli": [
        {"premise": "A man sleeps.", "hypothesis": hypothesis, "label": label}
        for hypothesis, label in (
            ("A man rests.", "entailment"),
            ("A man runs.", "contradiction"),
            ("A man dreams.", "neutral"),
        )
        for _ in range(2)
    ],
    "squad2": [
        {
            "id": f"{number}",
            "question": "Where does she live?",
            "context": f"She lives in {place}.",
            "answers": {"text": [place], "answer_start": [13]} if number else {"text": [], "answer_start": []},
        }
        for number, place in enumerate(PLACES)
    ],
}


def write_data(folder: Path) -> None:
    for name in ("train", "dev", "test"):
        _write(folder / f"{name}.jsonl", SWITCHES)
    for name in ("train", "dev"):
        _write(folder / "nli" / f"{name}.jsonl", PAIRS)
        for data_set, rows in DATA_SETS.items():
            _write(folder / data_set / f"{name}.jsonl.gz", rows)
            (folder / data_set / "dataset.json").write_text("{}")
    _write(folder / "train.jsonl.gz", DATA_SETS["squad2"])  # what the card of qa calls joined


def _write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
