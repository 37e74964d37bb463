"""Small seeded data files that a tiny backbone learns in a few seconds: the answer is always visible in the words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from prefixrack_adapters.training.settings import TrainSettings

Record = Callable[[Random], dict[str, Any]]
MakeSettings = Callable[..., TrainSettings]

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


def long_answer(random: Random) -> dict[str, Any]:
    """As `answer`, with more words behind it: too many for one short window."""
    record = answer(random)
    return record | {"context": " ".join([record["context"], *random.choices(FILLERS, k=8)])}


def choice(random: Random) -> dict[str, Any]:
    label = random.randrange(2)
    return {"text": "who sat", "choices": ["the mat", "the cat"][:: 1 if label else -1], "label": label}


def alike(random: Random) -> dict[str, Any]:
    """Two texts and how alike they are: one of two words, then one of the other."""
    count = random.randrange(4)
    return {"text": "cat cat cat", "text_pair": " ".join(["cat"] * count + ["mat"] * (3 - count)), "value": count / 3}


def partners(random: Random) -> dict[str, Any]:
    """Two texts of the same three words in another order."""
    words = random.sample([*FILLERS, *MARKS], 3)
    return {"text": " ".join(words), "text_pair": " ".join(reversed(words))}


def roles(random: Random) -> dict[str, Any]:
    record = tags(random)
    return record | {"predicate_index": random.randrange(len(record["tokens"]))}


def pronoun(random: Random) -> dict[str, Any]:
    name = random.choice(["cat", "dog"])
    return {"text": f"the {name} sat on it", "span1": name, "span2": "it", "label": name == "cat"}


def judged(random: Random) -> dict[str, Any]:
    """A question with right answers (cats) and wrong ones (dogs); every answer differs from the others."""
    answers = [f"{random.choice(['cat', 'dog'])} {filler}" for filler in random.sample(FILLERS, 3)]
    labels = [int(answer.startswith("cat")) for answer in answers]
    return {"passage": "the rain was in paris", "question": "who sat", "answers": answers, "labels": labels}


def gap(random: Random) -> dict[str, Any]:
    entities = ["cat", *random.sample(["dog", "paris", "london"], 2)]
    random.shuffle(entities)
    fields = {"passage": "the rain was in the city", "query": "@placeholder sat on a mat"}
    return fields | {"entities": entities, "answers": ["cat"]}


def settings_of(
    folder: Path, backbone: Path, task: str = "text-classification", record: Record = single, **options: Any
) -> TrainSettings:
    """A quick run on synthetic data, which is written into `folder`."""
    train_file, dev_file = write_data(folder / "data", record)
    fields: dict[str, Any] = {
        "name": "tiny",
        "task": task,
        "backbone": backbone,
        "train_file": str(train_file),
        "dev_file": str(dev_file),
        "output": folder / "bundle",
        "prefix_len": 4,
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 3e-2,
        "max_len": 48,
        "device": "cpu",
        "dtype": "float32",
    }
    return TrainSettings(**fields | options)


def write_data(folder: Path, record: Record, num_train: int = 160, num_dev: int = 40) -> tuple[Path, Path]:
    """Files of training and dev data; the same numbers give the same bytes."""
    random, paths = Random(1), []
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", num_train), ("dev", num_dev)):
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps(record(random)) + "\n" for _ in range(count)))
        paths.append(path)
    return paths[0], paths[1]
