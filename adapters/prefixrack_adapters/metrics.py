"""Scores of predictions against gold targets, one function per task, by scikit-learn, scipy and nervaluate."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nervaluate.entities import Entity
from nervaluate.strategies import EntityTypeEvaluation, EvaluationStrategy, ExactEvaluation, PartialEvaluation
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from prefixrack_adapters.formats import PLAIN
from prefixrack_adapters.formats.srl import SRL
from prefixrack_adapters.tasks.token_classification import join_tags
from prefixrack_adapters.training.data import CandidateLabels, GoldAnswers, Similarity
from prefixrack_adapters.training.data.candidates import YES

PREDICATE_LABEL = "V"  # of PropBank's tags
NULL_THRESHOLDS = [0.25 * step for step in range(-40, 41)]

# The score that decides between checkpoints and that a card names first.
MAIN_METRIC: Mapping[str, str] = {
    "single_label": "accuracy",
    "multi_label": "micro_f1",
    "regression": "spearman",
    "token-classification": "span_f1",
    "question-answering": "f1",
    "multiple-choice": "accuracy",
    "text-embedding": "spearman",
    "retrieval": "mrr",
    "multirc": "f1a",
    "record": "f1",
}

# How spans that are not wholly right count, as nervaluate has it: both ends right whatever the type; half for an end
# that is right or any overlap, whatever the type; any overlap of the right type.
OVERLAPS: Mapping[str, type[EvaluationStrategy]] = {
    "exact": ExactEvaluation,
    "partial": PartialEvaluation,
    "type": EntityTypeEvaluation,
}


def main_metric(task: str, problem: str, no_answer: bool = False, input_format: str = PLAIN, target: Any = None) -> str:
    """With no-answer questions, the F1 at the best null threshold: one fixed threshold says little of a checkpoint.

    `target` is any of the data's targets: pairs without a score and candidates are scored in ways of their own.
    """
    if no_answer:
        return "best_f1"
    match target:
        case CandidateLabels():
            return MAIN_METRIC[input_format]
        case Similarity(score=None):
            return MAIN_METRIC["retrieval"]
    return MAIN_METRIC[problem if task == "text-classification" else task]


def single_label(predicted: Sequence[str], gold: Sequence[str]) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "macro_f1": float(f1_score(gold, predicted, average="macro", zero_division=0)),
    }


def multi_label(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], labels: Sequence[str]
) -> dict[str, float]:
    binarizer = MultiLabelBinarizer(classes=list(labels)).fit([])
    seen, wanted = binarizer.transform(predicted), binarizer.transform(gold)
    return {
        "micro_f1": float(f1_score(wanted, seen, average="micro", zero_division=0)),
        "macro_f1": float(f1_score(wanted, seen, average="macro", zero_division=0)),
    }


def regression(predicted: Sequence[float], gold: Sequence[float]) -> dict[str, float]:
    """Correlations; 0 where one side is constant, for which none is defined."""
    if len(set(predicted)) < 2 or len(set(gold)) < 2:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(pearsonr(predicted, gold).statistic),
        "spearman": float(spearmanr(predicted, gold).statistic),
    }


def spans(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Micro precision, recall and F1 over exact spans (label and both ends), as conlleval counts them."""
    hits = num_predicted = num_gold = 0
    for seen_tags, gold_tags in zip(predicted, gold, strict=True):
        seen, wanted = set(join_tags(seen_tags)), set(join_tags(gold_tags))
        hits += len(seen & wanted)
        num_predicted += len(seen)
        num_gold += len(wanted)
    precision = hits / num_predicted if num_predicted else 0.0
    recall = hits / num_gold if num_gold else 0.0
    total = precision + recall
    return {
        "span_f1": 2 * precision * recall / total if total else 0.0,
        "span_precision": precision,
        "span_recall": recall,
    }


def roles(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """F1 over the spans of roles, the predicate's own left out: it is given, as in CoNLL-2005's shared task."""
    seen, wanted = ([without_predicate(tags) for tags in side] for side in (predicted, gold))
    return {"role_f1": spans(seen, wanted)["span_f1"]}


def without_predicate(tags: Sequence[str]) -> list[str]:
    return ["O" if tag.partition("-")[2] == PREDICATE_LABEL else tag for tag in tags]


def span_overlaps(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Micro F1 that gives credit to spans which are right in part, by nervaluate (`OVERLAPS`)."""
    scores = {}
    for way in OVERLAPS:
        credit, actual, possible = overlap_counts(predicted, gold, way).sum(axis=0)
        scores[f"span_{way}_f1"] = float(2 * credit / (actual + possible)) if actual + possible else 0.0
    return scores


def overlap_counts(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], way: str) -> NDArray[np.float64]:
    """Credit, predicted and gold spans of each example: [num_examples, 3]."""
    strategy = OVERLAPS[way]()
    found = (
        strategy.evaluate(_entities(gold_tags), _entities(seen_tags), [])[0]
        for seen_tags, gold_tags in zip(predicted, gold, strict=True)
    )
    counts = [(one.correct + 0.5 * one.partial, one.actual, one.possible) for one in found]
    return np.array(counts, dtype=np.float64).reshape(-1, 3)


def _entities(tags: Sequence[str]) -> list[Entity]:
    """Ends are the last word's index, as nervaluate counts."""
    return [Entity(label=span.label, start=span.start, end=span.end - 1) for span in join_tags(tags)]


def answers(predicted: Sequence[str], gold: Sequence[GoldAnswers]) -> dict[str, float]:
    """SQuAD's exact match and F1, the maximum over the acceptable answers; "" is no answer."""
    pairs = list(zip(predicted, gold, strict=True))
    exact = [exact_match(text, targets) for text, targets in pairs]
    overlap = [answer_f1(text, targets) for text, targets in pairs]
    return {"f1": float(np.mean(overlap)), "exact_match": float(np.mean(exact))}


def best_null_threshold(
    answers_found: Sequence[str], null_margins: Sequence[float], gold: Sequence[GoldAnswers]
) -> dict[str, float]:
    """The null threshold with the best F1, and that F1, as SQuAD 2.0's official script reports them.

    `null_margins` are the null score minus the best answer's, in logits: above the threshold there is no answer.
    """
    means = f1_by_null_threshold(answers_found, null_margins, gold).mean(axis=0)
    tried = dict(zip(NULL_THRESHOLDS, means.tolist(), strict=True))
    best = max(tried, key=lambda threshold: (tried[threshold], -abs(threshold)))
    return {"best_f1": tried[best], "best_f1_threshold": best}


def f1_by_null_threshold(
    answers_found: Sequence[str], null_margins: Sequence[float], gold: Sequence[GoldAnswers]
) -> NDArray[np.float64]:
    """Each question's F1 at each of `NULL_THRESHOLDS`: [num_questions, num_thresholds]."""
    found = np.array([answer_f1(text, targets) for text, targets in zip(answers_found, gold, strict=True)])
    none = np.array([answer_f1("", targets) for targets in gold])
    is_null = np.array(null_margins)[:, None] > np.array(NULL_THRESHOLDS)
    return np.where(is_null, none[:, None], found[:, None])


def exact_match(predicted: str, gold: GoldAnswers) -> float:
    return max(float(_normal(predicted) == _normal(one)) for one in _acceptable(gold))


def answer_f1(predicted: str, gold: GoldAnswers) -> float:
    return max(_token_f1(predicted, one) for one in _acceptable(gold))


def _acceptable(gold: GoldAnswers) -> Sequence[str]:
    return [text for text in gold.texts if _normal(text)] or [""]


def _normal(text: str) -> str:
    """The official script's normalisation: lower case, no punctuation, no articles, single spaces."""
    kept = "".join(mark for mark in text.lower() if mark not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _token_f1(predicted: str, gold: str) -> float:
    seen, wanted = _normal(predicted).split(), _normal(gold).split()
    if not seen or not wanted:
        return float(seen == wanted)
    common = sum((Counter(seen) & Counter(wanted)).values())
    return 2 * common / (len(seen) + len(wanted)) if common else 0.0


def choices(predicted: Sequence[int], gold: Sequence[int]) -> dict[str, float]:
    return {"accuracy": float(accuracy_score(gold, predicted))}


def options(predicted: Sequence[Sequence[bool]], gold: Sequence[Sequence[bool]]) -> dict[str, float]:
    """Questions with several right options: F1 over all options (SuperGLUE's F1a), and questions with none wrong."""
    seen, wanted = ([option for several in side for option in several] for side in (predicted, gold))
    exact = [list(a) == list(b) for a, b in zip(predicted, gold, strict=True)]
    return {"f1a": float(f1_score(wanted, seen, zero_division=0)), "exact_match": float(np.mean(exact))}


def entity(predicted: str | None, right: Sequence[str]) -> tuple[float, float]:
    """ReCoRD's F1 and exact match of one entity, the maximum over the right ones; None: none was given."""
    if predicted is None:
        return 0.0, 0.0
    gold = GoldAnswers(tuple(right), (0,) * len(right))
    return answer_f1(predicted, gold), exact_match(predicted, gold)


def majority(
    task: str,
    problem: str,
    train: Sequence[Any],
    gold: Sequence[Any],
    labels: Sequence[str],
    input_format: str = PLAIN,
) -> dict[str, float]:
    """Scores of the best constant answer: the most frequent training target; no span; no answer; the first entity.

    For embeddings, those of one vector for all texts: no correlation, and partners found by chance.
    """
    size = len(gold)
    if gold and isinstance(gold[0], CandidateLabels):
        return _majority_of_candidates(train, gold, input_format)
    match task, problem:
        case "text-embedding", _:
            chance = float(np.mean(1 / np.arange(1, size + 1)))
            has_scores = gold[0].score is not None
            return regression([0.0] * size, [0.0] * size) if has_scores else {"mrr": chance, "recall_at_1": 1 / size}
        case "token-classification", _:
            nothing = [["O"] * len(tags) for tags in gold]
            of_roles = roles(nothing, gold) if input_format == SRL.name else {}
            return spans(nothing, gold) | span_overlaps(nothing, gold) | of_roles
        case "question-answering", _:
            scores = answers([""] * size, gold)
            return scores | {"best_f1": scores["f1"]}
        case "multiple-choice", _:
            return choices([Counter(train).most_common(1)[0][0]] * size, gold)
        case _, "regression":
            return regression([float(np.mean(train))] * size, gold)
        case _, "multi_label":
            common = Counter(label for several in train for label in several).most_common(1)[0][0]
            return multi_label([[common]] * size, gold, labels)
    return single_label([Counter(train).most_common(1)[0][0]] * size, gold)


def _majority_of_candidates(
    train: Sequence[CandidateLabels], gold: Sequence[CandidateLabels], input_format: str
) -> dict[str, float]:
    if input_format == "record":
        right = [[name for name, label in zip(one.names, one.labels, strict=True) if label == YES] for one in gold]
        scored = np.array([entity(one.names[0], names) for one, names in zip(gold, right, strict=True)])
        return {"f1": float(scored[:, 0].mean()), "exact_match": float(scored[:, 1].mean())}
    common = Counter(label for one in train for label in one.labels).most_common(1)[0][0]
    wanted = [[label == YES for label in one.labels] for one in gold]
    return options([[common == YES] * len(one) for one in wanted], wanted)
