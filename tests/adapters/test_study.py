"""Studies on a tiny backbone: what is run, what is kept when one is broken off, which run is chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefixrack.errors import DiskFull, InvalidRequest
from prefixrack_adapters.bundle import CARD_FILE, MANIFEST_FILE, bundle_digest
from prefixrack_adapters.training import study as study_module
from prefixrack_adapters.training.card import Report
from prefixrack_adapters.training.plan import Plan
from prefixrack_adapters.training.progress import Watch
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.study import Run, Study, run_study
from synthetic import MakeSettings

RATES = Plan({"learning_rate": [1e-5, 3e-2]}, [1, 2])


def report_of(score: float, **fields: Any) -> Report:
    facts = {"num_trained": 5, "num_backbone": 100, "num_train": 8, "num_dev": 4, "num_skipped": 0, "seconds": 1.0}
    return Report("accuracy", {"accuracy": score}, {}, [score], 1, **facts | fields)


class Runs:
    """Stands for `run_training`: gives scores by settings, and notes which runs were asked for."""

    def __init__(self, scores: dict[tuple[Any, ...], float | Exception], *names: str) -> None:
        self.scores = scores
        self.names = names
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, settings: TrainSettings, on_leftovers: str | None, watch: Watch) -> Report:
        key = tuple(getattr(settings, name) for name in (*self.names, "seed"))
        self.asked.append(key)
        score = self.scores[key]
        if isinstance(score, Exception):
            raise score
        settings.output.mkdir(parents=True)
        (settings.output / "metrics.json").write_text(json.dumps({"of": key}))
        return report_of(score)


@pytest.fixture
def settings(make_settings: MakeSettings) -> TrainSettings:
    return make_settings()


def run_with(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, settings: TrainSettings, plan: Plan, wish: Any = None
) -> Study:
    monkeypatch.setattr(study_module, "run_training", runs)
    return run_study([settings], plan, wish)


def test_a_study_writes_the_best_run_and_a_table_of_all(
    make_settings: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_settings(dataset="marks")
    study = run_study([settings], RATES)
    assert study.best.changes == {"learning_rate": 3e-2}
    output = settings.output
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md",
        "adapter.json",
        "adapter.safetensors",
        "confusion.svg",
        "curves.svg",
        "metrics.json",
        "study.json",
        "study.svg",
    ]
    alone = make_settings(output=tmp_path / "alone", learning_rate=3e-2, seed=study.best.seed, dataset="marks")
    report = run_training(alone)
    assert bundle_digest(tmp_path / "alone") == bundle_digest(output), "a study's run is the run alone"
    assert study.best.score == report.scores["accuracy"]

    table = json.loads((output / "study.json").read_text())
    assert table == json.loads(json.dumps(study.as_json()))
    assert [(run["settings"]["learning_rate"], run["seed"]) for run in table["runs"]] == [
        (1e-5, 1),
        (1e-5, 2),
        (3e-2, 1),
        (3e-2, 2),
    ]
    assert table["runs"][2]["parts"][0]["scores"].keys() == {"accuracy", "macro_f1"}
    assert len(table["runs"][2]["parts"][0]["history"]) == 1
    assert table["settings"]["dataset"] == "marks"
    assert str(tmp_path) not in (output / "study.json").read_text()
    card = (output / CARD_FILE).read_text()
    assert "Chosen on dev: the best of 4 runs (2 combinations of settings × 2 seeds" in card
    assert "![study](study.svg)" in card
    assert "![curves](curves.svg)" in card
    assert not list(tmp_path.glob("*.training"))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "run 4 of 4: learning_rate=0.03,seed=2" in shown.err


def test_the_best_mean_decides_and_then_the_best_seed(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs({(4, 1): 0.9, (4, 2): 0.1, (8, 1): 0.6, (8, 2): 0.7}, "prefix_len")
    study = run_with(runs, monkeypatch, settings, Plan({"prefix_len": [4, 8]}, [1, 2]))
    assert (study.best.changes, study.best.seed, study.best.score) == ({"prefix_len": 8}, 2, 0.7)
    first, second = study.combinations
    assert (first.mean, second.mean) == pytest.approx((0.5, 0.65))
    assert (first.deviation, second.deviation) == pytest.approx((0.8 / 2**0.5, 0.1 / 2**0.5))
    assert json.loads((settings.output / "metrics.json").read_text()) == {"of": [8, 2]}


def test_a_run_that_fails_stops_nothing_else(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = RuntimeError("the device\nis gone")
    scores: dict[tuple[Any, ...], float | Exception] = {}
    scores |= {(2, 1): odd, (2, 2): odd, (4, 1): 0.9, (4, 2): odd, (8, 1): 0.6, (8, 2): 0.7}
    runs = Runs(scores, "prefix_len")
    study = run_with(runs, monkeypatch, settings, Plan({"prefix_len": [2, 4, 8]}, [1, 2]))
    assert len(study.runs) == 6
    reasons = [run.reason for run in study.runs]
    assert reasons[3] == "RuntimeError: the device is gone"
    assert study.best.changes == {"prefix_len": 8}, "a combination of which a run failed comes last"
    table = json.loads((settings.output / "study.json").read_text())
    assert table["runs"][3] == {"settings": {"prefix_len": 4}, "seed": 2, "failed": "RuntimeError: the device is gone"}
    assert [one["num_failed"] for one in table["combinations"]] == [2, 1, 0]


def test_settings_that_do_not_agree_are_a_failed_run(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(reparameterization="mlp")
    runs = Runs({("p-tuning-v2", 1): 0.5}, "method")
    plan = Plan({"method": ["prompt-tuning", "multitask", "p-tuning-v2"]}, [1])
    study = run_with(runs, monkeypatch, settings, plan)
    first, second, third = (run.reason for run in study.runs)
    assert first is not None
    assert first.startswith("reparameterization was given, but method 'prompt-tuning' has no prefix in the layers")
    assert second == "method multitask, and no other, is for several data sets"
    assert third is None
    assert study.best.changes == {"method": "p-tuning-v2"}


def test_a_run_with_a_bundle_is_chosen_before_a_baseline(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs({("fine-tuning", 1): 0.9, ("p-tuning-v2", 1): 0.8}, "method")
    study = run_with(runs, monkeypatch, settings, Plan({"method": ["fine-tuning", "p-tuning-v2"]}, [1]))
    assert study.best.changes == {"method": "p-tuning-v2"}


def test_no_finished_run_is_refused_and_leaves_nothing(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = Runs({(1,): InvalidRequest("no memory"), (2,): InvalidRequest("no room")})
    with pytest.raises(InvalidRequest, match="none of the 2 runs finished; seed=1 failed: no memory"):
        run_with(runs, monkeypatch, settings, Plan({}, [1, 2]))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_finished_runs_are_not_run_again(
    settings: TrainSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = Plan({"prefix_len": [4, 8]}, [1, 2])
    broken = Runs({(4, 1): 0.5, (4, 2): ValueError("odd"), (8, 1): DiskFull("the disk is full")}, "prefix_len")
    with pytest.raises(DiskFull):
        run_with(broken, monkeypatch, settings, plan)
    assert not settings.output.exists()
    with pytest.raises(InvalidRequest, match="is left from a run that was not finished"):
        run_with(broken, monkeypatch, settings, plan)
    with pytest.raises(InvalidRequest, match="sweep differ"):
        run_with(broken, monkeypatch, settings, Plan({"prefix_len": [4, 16]}, [1, 2]), "resume")

    again = Runs({(4, 2): 0.7, (8, 1): 0.6, (8, 2): 0.5}, "prefix_len")
    study = run_with(again, monkeypatch, settings, plan, "resume")
    assert again.asked == [(4, 2), (8, 1), (8, 2)], "what failed is tried again, what finished is not"
    assert [run.score for run in study.runs] == [0.5, 0.7, 0.6, 0.5]
    assert not list(tmp_path.glob("*.training"))


def test_a_study_can_begin_anew(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiskFull):
        run_with(Runs({(1,): 0.5, (2,): DiskFull("full")}), monkeypatch, settings, Plan({}, [1, 2]))
    again = Runs({(1,): 0.4, (2,): 0.3})
    run_with(again, monkeypatch, settings, Plan({}, [1, 2]), "restart")
    assert again.asked == [(1,), (2,)]


def test_bad_data_is_refused_before_any_run(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(settings.dev_file).write_text('{"text": "rain", "label": "weather"}\n')
    runs = Runs({})
    with pytest.raises(InvalidRequest, match="weather"):
        run_with(runs, monkeypatch, settings, RATES)
    assert runs.asked == []


def test_several_data_sets_are_one_run(make_settings: MakeSettings, tmp_path: Path) -> None:
    several = [
        make_settings(method="multitask", name=name, output=tmp_path / "out" / name, tune_epochs=1)
        for name in ("one", "two")
    ]
    study = run_study(several, Plan({"prefix_len": [2, 4]}, [1]))
    assert [sorted(run.reports) for run in study.runs] == [["one", "two"]] * 2
    assert study.metric == "score over all sets"
    for name in ("one", "two"):
        card = (tmp_path / "out" / name / CARD_FILE).read_text()
        assert "![study](../study.svg)" in card
        assert f"- Trained together with {'two' if name == 'one' else 'one'}: " in card
        manifest = json.loads((tmp_path / "out" / name / MANIFEST_FILE).read_text())
        assert manifest["prefix"]["prefix_len"] == study.best.changes["prefix_len"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "two", "study.json", "study.svg"}


def test_the_score_over_several_sets_is_their_mean() -> None:
    run = Run({}, 1, {"a": report_of(0.5), "b": report_of(1.0)})
    assert run.score == 0.75
