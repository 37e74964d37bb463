"""The guide to training says what the code does. Its blocks run in docs/test_code_blocks.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prefixrack_adapters.commands.train import WHEN_IT_DOES_NOT_LEARN
from prefixrack_adapters.metrics import MAIN_METRIC
from prefixrack_adapters.training.data import GoldAnswers, read_examples
from prefixrack_adapters.training.multitask import FIELDS, read_sets

GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
TASK_OF = {"tokens": "token-classification", "answers": "question-answering", "choices": "multiple-choice"}


def test_the_table_of_data_sets_may_have_what_the_guide_says(tmp_path: Path) -> None:
    (tmp_path / "sets.toml").write_text(re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)[0])
    assert read_sets(tmp_path / "sets.toml").keys() == {"home", "pairs"}
    listed = re.search(r"A table may set (.*?); options", GUIDE, flags=re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) == FIELDS.keys()


def test_the_scores_are_those_that_there_are() -> None:
    """The last column of the guide's table names what decides."""
    table = GUIDE.partition("## Evaluate and compare")[2].partition("What decides")[0]
    deciding = [
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.rpartition("|")[0].rpartition("|")[2])
    ]
    assert sorted(deciding) == sorted([*MAIN_METRIC.values(), "best_f1"])


def test_its_records_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", GUIDE, flags=re.DOTALL)
    targets = []
    for number, line in enumerate(block.splitlines()):
        fields = json.loads(line).keys()
        task = next((name for column, name in TASK_OF.items() if column in fields), "text-classification")
        path = tmp_path / f"{number}.jsonl"
        path.write_text(line)
        targets += [(task, type(one.target)) for one in read_examples(path, task, {})]
    assert targets == [
        ("text-classification", str),
        ("text-classification", str),
        ("text-classification", tuple),
        ("text-classification", float),
        ("token-classification", tuple),
        ("question-answering", GoldAnswers),
        ("multiple-choice", int),
    ]


def test_the_command_points_at_a_section_that_there_is() -> None:
    (title,) = re.findall("'(.*)'", WHEN_IT_DOES_NOT_LEARN)
    assert f"\n### {title}\n" in GUIDE
