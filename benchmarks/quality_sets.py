"""What `quality.py` compares: data sets, how they are read, and how each method trains on them. Measures nothing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

METHODS = ("fine-tuning", "head-only", "prompt-tuning", "p-tuning-v2", "multitask")
SAMPLING_SEED = 13  # of the subsets: the same for every method and every training seed
MAX_TRAIN, MAX_DEV = 2000, 500  # examples of a data set, unless told otherwise
SMALL, MIDDLE = 300, 1000  # training examples: below, epochs are short and more of them are needed


@dataclass(frozen=True, slots=True)
class QualitySet:
    """`kind` says in which mean of the summary it counts, `group` what multi-task training joins it with."""

    name: str
    task: str
    kind: str
    group: str
    input_format: str = "plain"
    columns: Mapping[str, str] = field(default_factory=dict)
    max_len: int = 128
    has_many_labels: bool = False


PAIR, CHOICE, TAGS, QA = "text-classification", "multiple-choice", "token-classification", "question-answering"
SETS = {
    one.name: one
    for one in (
        QualitySet("crossner_music", TAGS, "tagging", "ner"),
        QualitySet("crossner_politics", TAGS, "tagging", "ner"),
        QualitySet("crossner_science", TAGS, "tagging", "ner"),
        QualitySet("wnut17", TAGS, "tagging", "ner"),
        QualitySet("fewnerd_inter", TAGS, "tagging", "ner"),
        QualitySet("wsc", PAIR, "classification", "pairs", "wsc"),
        QualitySet("copa", CHOICE, "classification", "choice"),
        QualitySet("snli", PAIR, "classification", "pairs"),
        QualitySet("goemotions", PAIR, "classification", "sentences", has_many_labels=True),
        QualitySet("stsb_open", PAIR, "classification", "pairs"),
        QualitySet("ecare", CHOICE, "classification", "choice"),
        QualitySet("srl_ewt", TAGS, "tagging", "roles", "srl"),
        QualitySet("boolq", PAIR, "classification", "pairs"),
        QualitySet("squad1", QA, "question answering", "qa", max_len=256),
        QualitySet("squad2", QA, "question answering", "qa", max_len=256),
        # partners of multi-task training, and sets that may be measured but not shipped
        QualitySet("snips", TAGS, "tagging", "roles"),
        QualitySet("sst2", PAIR, "classification", "sentences"),
        QualitySet("rte", PAIR, "classification", "pairs"),
        QualitySet("trec", PAIR, "classification", "sentences"),
    )
}
DEFAULT_SETS = tuple(name for name in SETS if name not in ("snips", "sst2", "rte", "trec"))
LOW_RESOURCE = ("crossner_music", "crossner_politics", "crossner_science")


def partners(name: str) -> list[str]:
    """The data sets that a multi-task run on this one is made of."""
    with_company = {"sentences": ("goemotions", "sst2"), "roles": ("srl_ewt", "snips")}
    group = SETS[name].group
    return list(with_company.get(group, [one for one in DEFAULT_SETS if SETS[one].group == group]))


def recipe(method: str, one: QualitySet, num_train: int) -> dict[str, Any]:
    """Settings of a method, found on seed 13 by what the page lists as tried besides. Everything else is default."""
    sizes = _sizes(num_train)
    match method:
        case "fine-tuning":
            return sizes | _fine_tuning(one, num_train)
        case "prompt-tuning":
            return sizes | {"learning_rate": 3e-2, "head_learning_rate": 1e-3} | _many_steps(one)
        case "p-tuning-v2":
            return sizes | _prefix(one) | _many_steps(one) | _alone(one, num_train)
        case "multitask":
            tuning = {"tune_epochs": 60 if num_train < SMALL else 5, "tune_learning_rate": 1e-2}
            return sizes | _prefix(one) | tuning | _joint(one)
    return sizes


def _fine_tuning(one: QualitySet, num_train: int) -> dict[str, Any]:
    """It needs far fewer epochs, but for several labels, where it stays at nothing for the first five of them."""
    is_slow = one.kind != "classification" or one.has_many_labels
    rate = 3e-4 if is_slow else 1e-4
    epochs = 30 if num_train < SMALL else 10 if num_train < MIDDLE else 4
    if num_train >= MIDDLE and is_slow:
        epochs = 20 if one.has_many_labels else 6
    return {"epochs": epochs, "learning_rate": rate, "dtype": "float32"}


def _sizes(num_train: int) -> dict[str, Any]:
    """The fewer the examples, the smaller the batches and the more of the short epochs."""
    common = {"patience": 8, "pack_tokens": 65536}  # a step of several runs together, long rows too, in one pack
    if num_train < SMALL:
        return common | {"batch_size": 8, "epochs": 40}
    if num_train < MIDDLE:
        return common | {"batch_size": 16, "epochs": 25}
    return common | {"batch_size": 32, "epochs": 15}


def _many_steps(one: QualitySet) -> dict[str, Any]:
    """Roles and answers are spans that depend on other words of the row: a prefix finds them late, in many steps."""
    return {"roles": {"batch_size": 8, "epochs": 20}, "qa": {"batch_size": 8}}.get(one.group, {})


def _alone(one: QualitySet, num_train: int) -> dict[str, Any]:
    """What a prefix that is trained on one data set wants besides.

    Few examples of entities: faster, longer and with dropout of its own. Choices: many slow steps, while one fast step
    leaves them at chance. Answers that are always there: twice the epochs.
    """
    if one.group == "ner" and num_train < SMALL:
        return {"learning_rate": 2e-3, "epochs": 80, "prefix_dropout": 0.1}
    if one.group == "choice" and num_train >= MIDDLE:
        return {"learning_rate": 3e-4, "head_learning_rate": 1e-3, "batch_size": 8}
    return {"epochs": 30} if one.name == "squad1" else {}


def _joint(one: QualitySet) -> dict[str, Any]:
    """One size of batch for all data sets: that of the joint phase is the first one's."""
    if one.group == "ner":
        return {"batch_size": 16, "epochs": 12, "prefix_dropout": 0.1}
    return {"batch_size": 32} | _many_steps(one) | {"epochs": 8}


def _prefix(one: QualitySet) -> dict[str, Any]:
    """Through an MLP, but for several labels, where it stays at the majority."""
    if one.has_many_labels:
        return {"prefix_len": 32, "prefix_init": "words", "learning_rate": 2e-2, "head_learning_rate": 3e-3}
    narrow_mlp = {"reparameterization": "mlp", "reparameterization_size": 96}  # a wider one trains over 3 % of a model
    return narrow_mlp | {"prefix_len": 32, "learning_rate": 1e-3, "head_learning_rate": 2e-3}


def labels_of_set(data: Path, name: str) -> list[str] | None:
    """All labels of a data set, of which a subset may show only some; None where they have no names.

    A data set that is made for several tasks names the column of each.
    """
    described = json.loads((data / name / "dataset.json").read_text(encoding="utf-8"))
    labels = described.get("labels")
    if isinstance(labels, dict):
        labels = labels[{TAGS: "tags", PAIR: "label"}[SETS[name].task]]
    return None if labels is None or SETS[name].task == CHOICE else [str(label) for label in labels]


def write_subset(data: Path, name: str, split: str, size: int, folder: Path) -> tuple[Path, int]:
    """A seeded sample of a split as jsonl, and how many examples it has."""
    with gzip.open(data / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    chosen: Sequence[Any] = records
    if len(records) > size:
        chosen = Random(f"{SAMPLING_SEED}:{name}:{split}").sample(records, size)
    path = folder / f"{name}-{split}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in chosen), encoding="utf-8")
    return path, len(chosen)
