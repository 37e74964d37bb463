"""Scores by values worked out by hand."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from nervaluate.strategies import StrictEvaluation

from prefixrack_adapters import metrics
from prefixrack_adapters.training.data import CandidateLabels, GoldAnswers, Similarity


def gold(*texts: str) -> GoldAnswers:
    return GoldAnswers(texts, (0,) * len(texts))


def test_single_label() -> None:
    scores = metrics.single_label(["a", "a", "b", "c"], ["a", "b", "b", "b"])
    # a: precision 1/2, recall 1; b: precision 1, recall 1/3; c never occurs in gold: 0
    assert scores == {"accuracy": 0.5, "macro_f1": pytest.approx((2 / 3 + 1 / 2 + 0) / 3)}


def test_several_labels() -> None:
    predicted, wanted = [["a", "b"], [], ["c"]], [["a"], ["b"], ["c"]]
    scores = metrics.multi_label(predicted, wanted, ["a", "b", "c"])
    # micro: 2 hits, 3 predicted, 3 gold; a and c are perfect, b has no hit
    assert scores == {"micro_f1": pytest.approx(2 / 3), "macro_f1": pytest.approx(2 / 3)}


def test_regression() -> None:
    scores = metrics.regression([1.0, 2.0, 4.0], [1.0, 3.0, 2.0])
    # ranks 1 2 3 against 1 3 2; covariance 1 over the root of 14/3 times 2
    assert scores == {"pearson": pytest.approx(1 / (14 / 3 * 2) ** 0.5), "spearman": pytest.approx(0.5)}


@pytest.mark.parametrize(("predicted", "wanted"), [([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0]), ([], [])])
def test_regression_of_constants_is_zero_and_no_warning(predicted: list[float], wanted: list[float]) -> None:
    assert metrics.regression(predicted, wanted) == {"pearson": 0.0, "spearman": 0.0}


def test_spans() -> None:
    predicted = [["B-x", "I-x", "O", "B-y"], ["B-x"]]
    wanted = [["B-x", "I-x", "O", "B-x"], ["O"]]
    scores = metrics.spans(predicted, wanted)
    assert scores == {
        "span_f1": pytest.approx(2 / 5),
        "span_precision": pytest.approx(1 / 3),
        "span_recall": pytest.approx(1 / 2),
    }
    assert metrics.spans([["O"]], [["O"]]) == {"span_f1": 0.0, "span_precision": 0.0, "span_recall": 0.0}


@pytest.mark.parametrize(
    ("predicted", "exact", "partial", "kind"),
    [
        (["B-x", "I-x", "O", "O"], 1.0, 1.0, 1.0),
        (["B-y", "I-y", "O", "O"], 1.0, 1.0, 0.0),
        (["B-x", "O", "O", "O"], 0.0, 0.5, 1.0),
        (["B-y", "O", "O", "O"], 0.0, 0.5, 0.0),
        (["B-x", "I-x", "O", "B-x"], 2 / 3, 2 / 3, 2 / 3),
        (["O", "O", "O", "B-x"], 0.0, 0.0, 0.0),
    ],
)
def test_spans_that_are_right_in_part(predicted: list[str], exact: float, partial: float, kind: float) -> None:
    scores = metrics.span_overlaps([predicted], [["B-x", "I-x", "O", "O"]])
    wanted = {"span_exact_f1": exact, "span_partial_f1": partial, "span_type_f1": kind}
    assert scores == pytest.approx(wanted)


def test_spans_are_counted_as_nervaluate_counts_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(1)
    tags = ["O", "O", "B-x", "I-x", "B-y", "I-y", "E-y", "S-x"]
    wanted = [[random.choice(tags) for _ in range(12)] for _ in range(50)]
    predicted = [[tag if random.random() < 0.7 else random.choice(tags) for tag in one] for one in wanted]
    monkeypatch.setattr(metrics, "OVERLAPS", {"strict": StrictEvaluation})
    strict = metrics.span_overlaps(predicted, wanted)["span_strict_f1"]
    assert 0.3 < strict < 0.9
    assert metrics.spans(predicted, wanted)["span_f1"] == pytest.approx(strict)


@pytest.mark.parametrize(
    ("predicted", "wanted", "f1", "exact"),
    [
        ("The Cat!", gold("cat"), 1.0, 1.0),
        ("big cat", gold("cat sat", "dog"), 0.5, 0.0),
        ("cat", gold("dog", "a cat"), 1.0, 1.0),
        ("dog", gold("cat"), 0.0, 0.0),
        ("", gold(), 1.0, 1.0),
        ("cat", gold(), 0.0, 0.0),
        ("", gold("cat"), 0.0, 0.0),
        ("cat cat dog", gold("cat dog dog"), 2 / 3, 0.0),
    ],
)
def test_answers(predicted: str, wanted: GoldAnswers, f1: float, exact: float) -> None:
    assert metrics.answers([predicted], [wanted]) == {"f1": pytest.approx(f1), "exact_match": exact}


def test_answers_are_averaged() -> None:
    assert metrics.answers(["cat", "dog"], [gold("cat"), gold("cat")]) == {"f1": 0.5, "exact_match": 0.5}


def test_choices() -> None:
    assert metrics.choices([0, 1, -1, 1], [0, 0, 1, 1]) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("task", "problem", "train", "wanted", "score"),
    [
        ("text-classification", "single_label", ["a", "b", "b"], ["b", "a", "b", "b"], {"accuracy": 0.75}),
        ("text-classification", "multi_label", [("a",), ("a", "b")], [("a",), ("b",)], {"micro_f1": 0.5}),
        ("text-classification", "regression", [1.0, 2.0], [1.0, 5.0], {"spearman": 0.0}),
        ("token-classification", "single_label", [("B-x",)], [("B-x", "O")], {"span_f1": 0.0}),
        ("question-answering", "single_label", [], [gold(), gold("cat")], {"f1": 0.5}),
        ("multiple-choice", "single_label", [1, 1, 0], [1, 0], {"accuracy": 0.5}),
        ("text-embedding", "single_label", [], [Similarity(0.5)], {"spearman": 0.0}),
    ],
)
def test_majority(task: str, problem: str, train: list[Any], wanted: list[Any], score: dict[str, float]) -> None:
    scores = metrics.majority(task, problem, train, wanted, ["a", "b"])
    assert scores | score == scores
    assert metrics.main_metric(task, problem) in scores


def test_partners_found_by_chance() -> None:
    scores = metrics.majority("text-embedding", "single_label", [], [Similarity(None)] * 4, [])
    assert scores == pytest.approx({"mrr": (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, "recall_at_1": 1 / 4})
    assert metrics.main_metric("text-embedding", "single_label", target=Similarity(None)) == "mrr"


@pytest.mark.parametrize(
    ("form", "scores"), [("multirc", {"f1a": 0.0, "exact_match": 0.5}), ("record", {"f1": 0.5, "exact_match": 0.5})]
)
def test_majority_of_candidates(form: str, scores: dict[str, float]) -> None:
    train = [CandidateLabels(("x", "y", "z"), ("True", "False", "False"))]
    wanted = [CandidateLabels(("a", "b"), ("True", "False")), CandidateLabels(("c", "d"), ("False", "False"))]
    found = metrics.majority("text-classification", "single_label", train, wanted, ["False", "True"], form)
    assert found == pytest.approx(scores)
    main = metrics.main_metric("text-classification", "single_label", input_format=form, target=wanted[0])
    assert main in scores


def test_best_null_threshold_is_the_one_with_the_best_f1() -> None:
    gold = [GoldAnswers(("Paris",), (0,)), GoldAnswers((), ()), GoldAnswers(("Rome",), (0,))]
    found, margins = ["Paris", "Oslo", "Rome"], [-3.0, -1.0, -2.0]
    # below -2 everything but the first is null, above -1 nothing is: from -2 to -1 all three are right
    best = metrics.best_null_threshold(found, margins, gold)
    assert best["best_f1"] == 1.0
    assert -2.0 <= best["best_f1_threshold"] < -1.0
