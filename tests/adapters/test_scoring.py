"""Every kind of scoring: values worked out by hand, the same from tallies, failed inputs, and the path that serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from prefixrack.errors import InvalidRequest
from prefixrack.types import (
    Answer,
    ChoiceOutput,
    ClassificationOutput,
    EmbeddingOutput,
    EntityOutput,
    FailedOutput,
    InputError,
    JudgedAnswer,
    JudgedAnswersOutput,
    LabelScore,
    MultiLabelOutput,
    QuestionAnsweringOutput,
    RegressionOutput,
    TokenClassificationOutput,
)
from prefixrack_adapters import metrics
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.evaluation import evaluate
from prefixrack_adapters.scoring import Evaluation, Facts, judge
from prefixrack_adapters.training.data import CandidateLabels, Example, GoldAnswers, Similarity
from tiny import write_random_bundle

FAILED = FailedOutput(error=InputError(code="empty_input", message="the text is empty"))
LABELS = ("a", "b", "c")
TAGS = ("O", "B-x", "I-x", "B-y", "I-y", "E-y", "S-x")


def labelled(label: str) -> ClassificationOutput:
    return ClassificationOutput(label=label, score=1.0, scores=[])


def several(*labels: str) -> MultiLabelOutput:
    return MultiLabelOutput(labels=[LabelScore(label=label, score=1.0) for label in labels], scores=[])


def tagged(*tags: str) -> TokenClassificationOutput:
    return TokenClassificationOutput(spans=[], tags=list(tags))


def answered(text: str, score: float = 0.8, null: float = 0.1, is_null: bool = False) -> QuestionAnsweringOutput:
    best = Answer(text=text, start=0, end=len(text), score=score)
    return QuestionAnsweringOutput(answer=None if is_null else best, no_answer_score=null, answers=[best])


def judged(*labels: str) -> JudgedAnswersOutput:
    return JudgedAnswersOutput(judged=[JudgedAnswer(text="x", label=label, score=1, scores=[]) for label in labels])


def entity(name: str) -> EntityOutput:
    return EntityOutput(entity=name, score=1, entities=[])


def vector(*values: float) -> EmbeddingOutput:
    return EmbeddingOutput(embedding=list(values))


def gold(*texts: str) -> GoldAnswers:
    return GoldAnswers(texts, (0,) * len(texts))


def score(facts: Facts, outputs: Sequence[Any], targets: Sequence[Any], inputs: Sequence[Any] = ()) -> Evaluation:
    given = inputs or [None] * len(targets)
    return judge(facts, outputs, [Example(value, target) for value, target in zip(given, targets, strict=True)])


SINGLE = Facts("text-classification", LABELS)
MULTI = Facts("text-classification", LABELS, "multi_label")
NUMBERS = Facts("text-classification", (), "regression")
TAGGING = Facts("token-classification", TAGS)
QUESTIONS = Facts("question-answering")
NO_ANSWER = Facts("question-answering", no_answer=True)
CHOICES = Facts("multiple-choice")
VECTORS = Facts("text-embedding")
OPTIONS = Facts("text-classification", ("False", "True"), input_format="multirc")
ENTITIES = Facts("text-classification", ("False", "True"), input_format="record")


def options(*labels: str) -> CandidateLabels:
    return CandidateLabels(tuple(f"option {index}" for index in range(len(labels))), labels)


def test_one_label() -> None:
    result = score(SINGLE, [labelled("a"), labelled("b"), labelled("a"), FAILED], ["a", "a", "b", "b"])
    assert (result.main, result.value, result.num_examples, result.num_failed) == ("accuracy", 0.25, 4, 1)
    assert [(one.name, one.precision, one.recall, one.support, one.num_predicted) for one in result.classes] == [
        ("a", 0.5, 0.5, 2, 2),
        ("b", 0.0, 0.0, 2, 1),
    ]
    assert result.is_right is not None
    assert result.is_right.tolist() == [True, False, False, False]


def test_the_confusion_matrix_has_failed_inputs_in_a_column() -> None:
    confusion = score(SINGLE, [labelled("a"), labelled("b"), FAILED], ["a", "a", "d"]).confusion
    assert confusion is not None
    assert confusion.labels == (*LABELS, "(failed)", "d")
    assert {(row, column): int(count) for (row, column), count in np.ndenumerate(confusion.counts) if count} == {
        (0, 0): 1,
        (0, 1): 1,
        (4, 3): 1,
    }


def test_class_scores_are_those_of_scikit_learn() -> None:
    random = Random(0)
    wanted, seen = ([random.choice(LABELS) for _ in range(60)] for _ in range(2))
    found = {one.name: one for one in score(SINGLE, [labelled(label) for label in seen], wanted).classes}
    columns = precision_recall_fscore_support(wanted, seen, labels=LABELS, zero_division=0)
    for name, precision, recall, f1, support in zip(LABELS, *columns, strict=True):
        one = found[name]
        assert (one.precision, one.recall, one.f1, one.support) == pytest.approx((precision, recall, f1, support))


def test_several_labels() -> None:
    result = score(MULTI, [several("a", "b"), several(), FAILED], [("a",), ("a", "c"), ("b",)])
    # 1 hit, 2 predicted, 4 gold
    assert result.value == pytest.approx(2 / 6)
    assert [(one.name, one.support, one.num_predicted) for one in result.classes] == [
        ("a", 2, 1),
        ("b", 1, 1),
        ("c", 1, 0),
    ]
    assert result.confusion is None


def test_spans_and_their_types() -> None:
    wanted = [("B-x", "I-x", "O", "B-y"), ("B-y", "O")]
    result = score(TAGGING, [tagged("B-x", "I-x", "O", "B-x"), FAILED], wanted)
    assert result.scores["span_f1"] == pytest.approx(2 / 5)
    assert result.scores["span_exact_f1"] == pytest.approx(4 / 5)
    assert result.scores["span_type_f1"] == pytest.approx(2 / 5)
    assert [(one.name, one.precision, one.recall, one.support) for one in result.classes] == [
        ("y", 0.0, 0.0, 2),
        ("x", 0.5, 1.0, 1),
    ]


def test_the_given_predicate_is_no_role_that_was_found() -> None:
    """Of three gold spans one is the predicate; the answer has it and one role of the two, and a wrong one."""
    wanted, seen = ("B-ARG0", "B-V", "B-ARG1", "I-ARG1"), ("B-ARG0", "B-V", "O", "B-ARG1")
    result = score(replace(TAGGING, input_format="srl"), [tagged(*seen), FAILED], [wanted, ("B-V", "O")])
    assert result.scores["span_f1"] == pytest.approx(2 * 2 / (3 + 4))
    assert result.scores["role_f1"] == pytest.approx(2 * 1 / (2 + 2))
    assert result.main == "span_f1"
    assert "role_f1" not in score(TAGGING, [tagged(*seen)], [wanted]).scores
    assert metrics.majority("token-classification", "", [wanted], [wanted], [], "srl")["role_f1"] == 0.0


def test_answers() -> None:
    outputs = [answered("the cat"), answered("dog"), FAILED]
    result = score(QUESTIONS, outputs, [gold("Cat"), gold("big dog", "ox"), gold("x")])
    assert result.scores == pytest.approx({"f1": (1 + 2 / 3) / 3, "exact_match": 1 / 3})


def test_no_answer_questions_are_scored_at_their_best_threshold() -> None:
    outputs = [answered("cat", 0.5, 0.4), answered("dog", 0.3, 0.6), answered("ox", 0.1, 0.8, is_null=True), FAILED]
    result = score(NO_ANSWER, outputs, [gold("cat"), gold("dog"), gold(), gold()])
    # as answered: cat, dog, nothing, nothing
    assert result.main == "best_f1"
    assert result.scores["f1"] == result.scores["best_f1"] == 1.0
    assert 0.69 < result.scores["best_f1_threshold"] < 2.08


def test_choices() -> None:
    outputs = [ChoiceOutput(choice=1, scores=[]), ChoiceOutput(choice=0, scores=[]), FAILED]
    assert score(CHOICES, outputs, [1, 1, 0]).scores == pytest.approx({"accuracy": 1 / 3})


def test_options() -> None:
    outputs = [judged("True", "False", "True"), judged("False", "True"), FAILED]
    result = score(OPTIONS, outputs, [options("True", "False", "False"), options("False", "True"), options("False")])
    # the failed question's option counts as taken for the opposite: 2 hits, 4 predicted, 2 gold
    assert result.scores == pytest.approx({"f1a": 4 / 6, "exact_match": 1 / 3})


def test_options_need_two_labels() -> None:
    facts = Facts("text-classification", LABELS, input_format="multirc")
    with pytest.raises(InvalidRequest, match="the adapter has 3 labels"):
        score(facts, [judged("a")], [options("True")])


def test_the_options_of_an_adapter_with_names_of_its_own() -> None:
    facts = Facts("text-classification", ("wrong", "right"), input_format="multirc")
    assert score(facts, [judged("right", "wrong")], [options("True", "False")]).value == 1.0


def test_entities() -> None:
    target = CandidateLabels(("Old Oslo", "Bergen", "Oslo"), ("True", "False", "True"))
    result = score(ENTITIES, [entity("Oslo"), entity("Bergen"), FAILED], [target] * 3)
    assert result.scores == pytest.approx({"f1": 1 / 3, "exact_match": 1 / 3})
    other = CandidateLabels(("Old Oslo", "Oslo"), ("True", "False"))
    assert score(ENTITIES, [entity("Oslo")], [other]).scores == pytest.approx({"f1": 2 / 3, "exact_match": 0.0})


def test_similarities() -> None:
    outputs = [vector(1, 0), vector(2, 0), vector(1, 0), vector(1, 1), vector(1, 0), vector(0, 3), FAILED, vector(1, 0)]
    targets = [Similarity(5.0), Similarity(4.0), Similarity(1.0), Similarity(0.0)]
    result = score(VECTORS, outputs, targets, [("x", "y")] * 4)
    # cosines 1, 0.71, 0 and, of the failed pair, 0
    assert (result.main, result.num_examples, result.num_failed) == ("spearman", 4, 1)
    assert result.scores["spearman"] == pytest.approx(4.5 / 22.5**0.5)
    assert result.scores["pearson"] == pytest.approx(np.corrcoef([1, 0.5**0.5, 0, 0], [5, 4, 1, 0])[0, 1])


def test_partners_are_found_among_the_different_second_texts() -> None:
    inputs = [("x", "same"), ("y", "same"), ("z", "other"), ("w", "third")]
    outputs = [
        vector(1, 0),
        vector(1, 0),
        vector(0, 1),
        vector(1, 0),
        vector(0, 1),
        vector(0, 1),
        vector(-1, 0),
        FAILED,
    ]
    result = score(VECTORS, outputs, [Similarity(None)] * 4, inputs)
    # x and z find theirs at once, y finds "other" first, w's partner has no vector
    assert (result.main, result.num_failed) == ("mrr", 1)
    assert result.scores == pytest.approx({"mrr": (1 + 1 / 2 + 1) / 4, "recall_at_1": 2 / 4})


def test_equal_vectors_for_all_texts_find_no_partner() -> None:
    inputs = [("x", str(index)) for index in range(600)]
    result = score(VECTORS, [vector(1, 0)] * 1200, [Similarity(None)] * 600, inputs)
    assert result.scores == pytest.approx({"mrr": 1 / 600, "recall_at_1": 0.0})


def test_pairs_with_and_without_a_score_are_not_mixed() -> None:
    targets = [Similarity(1.0), Similarity(None)]
    with pytest.raises(InvalidRequest, match="1 of 2 pairs have a score"):
        score(VECTORS, [vector(1.0)] * 4, targets, [("x", "y")] * 2)


def test_no_example_is_no_score() -> None:
    with pytest.raises(InvalidRequest, match="no example to score"):
        judge(SINGLE, [], [])


def random_case(kind: str, random: Random) -> tuple[Facts, Any, Any]:
    label, tag = random.choice(LABELS), random.choices(TAGS, k=9)
    seen_tags = [one if random.random() < 0.7 else random.choice(TAGS) for one in tag]
    texts = ("red cat", "dog", "")
    options_of = [random.choice(("False", "True")) for _ in range(3)]
    text, value = random.choice(texts), random.random()
    null = random.random() * 0.5
    match kind:
        case "single":
            return SINGLE, labelled(random.choice(LABELS)), label
        case "multi":
            return MULTI, several(*{label for label in LABELS if random.random() < 0.5}), (label,)
        case "numbers":
            return NUMBERS, RegressionOutput(value=value + random.random()), value
        case "tags":
            return TAGGING, tagged(*seen_tags), tuple(tag)
        case "roles":
            seen, wanted = ([one.replace("-y", "-V") for one in side] for side in (seen_tags, tag))
            return replace(TAGGING, input_format="srl"), tagged(*seen), tuple(wanted)
        case "questions":
            return NO_ANSWER, answered(random.choice(texts[:2]), 0.4, null), gold(text) if text else gold()
        case "options":
            return OPTIONS, judged(*random.choices(("False", "True"), k=3)), options(*options_of)
    return ENTITIES, entity(random.choice(texts[:2])), CandidateLabels(texts[:2], ("True", "False"))


@pytest.mark.parametrize("kind", ["single", "multi", "numbers", "tags", "roles", "questions", "options", "entities"])
def test_tallies_give_the_scores_of_any_choice_of_examples(kind: str) -> None:
    random = Random(3)
    facts, outputs, targets = zip(*(random_case(kind, random) for _ in range(40)), strict=True)
    outputs = (*outputs[:-1], FAILED)
    tally = score(facts[0], outputs, targets).tally
    assert tally is not None
    picks = np.random.default_rng(0).integers(0, 40, (5, 40))
    resampled = tally.of(picks)
    for row, chosen in enumerate(picks):
        wanted = score(facts[0], [outputs[one] for one in chosen], [targets[one] for one in chosen])
        shown = {name: value for name, value in wanted.scores.items() if not name.endswith("threshold")}
        assert {name: float(values[row]) for name, values in resampled.items()} == pytest.approx(shown)


@pytest.mark.parametrize(
    ("options", "example"),
    [
        (
            {"task": "text-classification", "labels": ("False", "True"), "input_format": "multirc"},
            Example({"passage": "ada sat", "question": "who sat", "answers": ["ada", "dog"]}, options("True", "False")),
        ),
        (
            {"task": "text-classification", "labels": ("False", "True"), "input_format": "record"},
            Example(
                {"passage": "ada sat in london", "query": "@placeholder sat", "entities": ["ada", "london"]},
                CandidateLabels(("ada", "london"), ("True", "False")),
            ),
        ),
        (
            {"task": "token-classification", "labels": ("O", "B-x", "I-x"), "input_format": "srl"},
            Example({"tokens": ["ada", "sat", "on", "mat"], "predicate_index": 1}, ("B-x", "O", "B-x", "I-x")),
        ),
        ({"task": "text-embedding"}, Example(("a cat", "the dog"), Similarity(0.5))),
        ({"task": "text-embedding"}, Example((" cat", {"text": "dog", "title": "the"}), Similarity(None))),
        ({"task": "text-embedding"}, Example(("cat " * 300, "dog"), Similarity(None))),
    ],
)
def test_every_format_is_scored_through_the_path_that_serves(
    backbone: Backbone, tmp_path: Path, options: dict[str, Any], example: Example
) -> None:
    bundle = write_random_bundle(tmp_path / "bundle", backbone.spec, **options)
    result = evaluate(backbone, Adapter.load(bundle), [example, example])
    assert result.num_examples == 2
    assert result.num_failed == 0
    assert all(-1 <= value <= 1 for value in result.scores.values())
    assert result.main in result.scores
