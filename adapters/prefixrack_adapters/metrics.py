"""Scores of predictions against gold targets, one function per task, with scikit-learn and scipy where they have it."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from prefixrack_adapters.tasks.token_classification import join_tags
from prefixrack_adapters.training.data import GoldAnswers

NULL_THRESHOLDS = [0.25 * step for step in range(-40, 41)]

# The score that decides between checkpoints and that a card names first.
MAIN_METRIC: Mapping[str, str] = {
    "single_label": "accuracy",
    "multi_label": "micro_f1",
    "regression": "spearman",
    "token-classification": "span_f1",
    "question-answering": "f1",
    "multiple-choice": "accuracy",
}


def main_metric(task: str, problem: str, no_answer: bool = False) -> str:
    """With no-answer questions, the F1 at the best null threshold: one fixed threshold says little of a checkpoint."""
    if no_answer:
        return "best_f1"
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


def answers(predicted: Sequence[str], gold: Sequence[GoldAnswers]) -> dict[str, float]:
    """SQuAD's exact match and F1, the maximum over the acceptable answers; "" is no answer."""
    pairs = list(zip(predicted, gold, strict=True))
    exact = [max(float(_normal(text) == _normal(one)) for one in _acceptable(targets)) for text, targets in pairs]
    overlap = [answer_f1(text, targets) for text, targets in pairs]
    return {"f1": float(np.mean(overlap)), "exact_match": float(np.mean(exact))}


def best_null_threshold(
    answers_found: Sequence[str], null_margins: Sequence[float], gold: Sequence[GoldAnswers]
) -> dict[str, float]:
    """The null threshold with the best F1, and that F1, as SQuAD 2.0's official script reports them.

    `null_margins` are the null score minus the best answer's, in logits: above the threshold there is no answer.
    """
    found = np.array([answer_f1(text, targets) for text, targets in zip(answers_found, gold, strict=True)])
    none = np.array([answer_f1("", targets) for targets in gold])
    margins = np.array(null_margins)
    tried = {threshold: float(np.where(margins > threshold, none, found).mean()) for threshold in NULL_THRESHOLDS}
    best = max(tried, key=lambda threshold: (tried[threshold], -abs(threshold)))
    return {"best_f1": tried[best], "best_f1_threshold": best}


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


def majority(
    task: str, problem: str, train: Sequence[Any], gold: Sequence[Any], labels: Sequence[str]
) -> dict[str, float]:
    """Scores of the best constant answer: the most frequent training target; no span; no answer."""
    size = len(gold)
    match task, problem:
        case "token-classification", _:
            return spans([["O"] * len(tags) for tags in gold], gold)
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
