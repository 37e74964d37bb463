"""The guide to training: its data, its commands and its code run, on a tiny backbone."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from prefixrack_adapters.commands.evaluate import evaluate
from prefixrack_adapters.commands.train import WHEN_IT_DOES_NOT_LEARN, train
from prefixrack_adapters.metrics import MAIN_METRIC
from prefixrack_adapters.training.data import GoldAnswers, read_examples
from prefixrack_adapters.training.multitask import FIELDS, read_sets

GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
DATA, LIBRARY = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
COMMANDS = {
    shlex.split(line)[-1]: shlex.split(line)[1:]
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(("prefixrack train", "prefixrack evaluate"))
}

TASK_OF = {"tokens": "token-classification", "answers": "question-answering", "choices": "multiple-choice"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the guide's data sets, and the files of its TOML."""
    monkeypatch.chdir(tmp_path)
    exec(compile(DATA, "docs/training.md", "exec"), {})
    (tmp_path / "nli").mkdir()
    for name in ("train", "dev"):
        pair = '{{"premise": "a cat sat", "hypothesis": "a {0} sat", "label": "{0}"}}\n'
        (tmp_path / "nli" / f"{name}.jsonl").write_text(pair.format("cat") * 4 + pair.format("dog") * 4)
    (tmp_path / "sets.toml").write_text(re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)[0])
    return tmp_path


def run(arguments: list[str], backbone: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    small = ["--epochs", "1", "--prefix-len", "2"] if arguments[0] == "train" else []
    result = CliRunner().invoke(app, [*arguments, "--backbone", str(backbone), "--device", "cpu", *small])
    assert result.exit_code == 0, result.output


def test_train_and_evaluate(folder: Path, backbone_folder: Path) -> None:
    run(COMMANDS["home"], backbone_folder)
    run(COMMANDS["--write"], backbone_folder)
    assert '"test.jsonl"' in (folder / "home" / "adapter.json").read_text()
    assert "test.jsonl:accuracy>=" in GUIDE


def test_the_study_and_several_data_sets(folder: Path, backbone_folder: Path) -> None:
    run(COMMANDS["3"], backbone_folder)
    assert (folder / "swept" / "study.svg").is_file()
    run(COMMANDS["home"], backbone_folder)
    run(COMMANDS["swept"], backbone_folder)
    run(COMMANDS["confusion.png"], backbone_folder)
    assert (folder / "confusion.png").is_file()
    run(COMMANDS["5"], backbone_folder)
    assert (folder / "together" / "pairs" / "adapter.json").is_file()


def test_the_table_of_data_sets_may_have_what_the_guide_says(folder: Path) -> None:
    assert read_sets(folder / "sets.toml").keys() == {"home", "pairs"}
    listed = re.search(r"A table may set (.*?); options", GUIDE, flags=re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) == FIELDS.keys()


def test_a_run_that_is_followed(folder: Path, backbone_folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run(COMMANDS["tensorboard"], backbone_folder)
    assert any((folder / "home.logs").iterdir())


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


def test_the_library_call(folder: Path, backbone_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = LIBRARY.replace('resolve_backbone("embedded")', f"Path({str(backbone_folder)!r})")
    exec(compile(code.replace("epochs=3", "epochs=1"), "docs/training.md", "exec"), {})
    assert capsys.readouterr().out.startswith("accuracy ")
    assert (folder / "from-python" / "curves.svg").is_file()
