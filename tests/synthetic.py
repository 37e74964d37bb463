"""Small seeded data files that a tiny backbone learns in a few seconds: the answer is always visible in the words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

FILLERS = ("the", "a", "of", "in", "is", "was", "mat", "sat", "on", "rain")
MARKS = ("cat", "dog", "paris")


def single(random: Random) -> dict[str, Any]:
    mark = random.choice(["cat", "dog"])
    return {"text": " ".join([mark] * random.randint(2, 5) + [random.choice(FILLERS)]), "label": mark}


def several(random: Random) -> dict[str, Any]:
    chosen = [mark for mark in MARKS if random.random() < 0.5]
    words = [mark if mark in chosen else "the" for mark in MARKS for _ in range(2)]
    return {"text": " ".join(words), "labels": chosen}


def number(random: Random) -> dict[str, Any]:
    count = random.randrange(5)
    return {"text": " ".join(["cat"] * count + ["mat"] * (4 - count)), "value": count / 2 - 1}


def tags(random: Random) -> dict[str, Any]:
    kinds = {"paris": "B-loc", "london": "B-loc", "ada": "B-per"}
    words = [random.choice([*FILLERS, *kinds]) for _ in range(7)]
    return {"tokens": words, "tags": [kinds.get(word, "O") for word in words]}


def answer(random: Random) -> dict[str, Any]:
    words = [random.choice(FILLERS) for _ in range(6)]
    place = random.randrange(1, 6)
    words.insert(place, random.choice(["paris", "london"]))
    start = len(" ".join(words[:place])) + 1
    return {
        "question": "where",
        "context": " ".join(words),
        "answers": {"text": [words[place]], "answer_start": [start]},
    }


def choice(random: Random) -> dict[str, Any]:
    label = random.randrange(2)
    return {"text": "who sat", "choices": ["the mat", "the cat"][:: 1 if label else -1], "label": label}


def write_data(
    folder: Path, record: Callable[[Random], dict[str, Any]], num_train: int = 160, num_dev: int = 40
) -> tuple[Path, Path]:
    """Files of training and dev data; the same numbers give the same bytes."""
    random, paths = Random(1), []
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", num_train), ("dev", num_dev)):
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps(record(random)) + "\n" for _ in range(count)))
        paths.append(path)
    return paths[0], paths[1]
