"""Columns of questions → question, context and gold answers that stand where they say. Knows no files, no tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefixrack_adapters.training.data.columns import Columns, shown
from prefixrack_adapters.training.data.examples import GoldAnswers

NO_ANSWER: Mapping[str, Any] = {"text": [], "answer_start": []}


def question_answering(row: Columns) -> tuple[Any, GoldAnswers]:
    question, context = row.text("question"), row.text("context")
    return {"question": question, "context": context}, _gold_answers(row, context)


def _gold_answers(row: Columns, context: str) -> GoldAnswers:
    """Both lists are empty where the context holds no answer. Every answer must stand at its start, in codepoints."""
    texts, starts = _texts_and_starts(row)
    if _is_impossible(row) and texts:
        raise row.fault(f"is_impossible is true, but answers has {shown(texts)}: leave one of them out")
    for text, start in zip(texts, starts, strict=True):
        _check_answer(row, context, text, start)
    return GoldAnswers(tuple(texts), tuple(starts))


def _texts_and_starts(row: Columns) -> tuple[list[str], list[Any]]:
    answers = _answers(row)
    texts: Any = answers.get("text")
    starts: Any = answers.get("answer_start")
    are_lists = isinstance(texts, list) and isinstance(starts, list)
    if are_lists and len(texts) == len(starts) and all(isinstance(text, str) for text in texts):
        return texts, starts
    raise row.fault(
        f"answers is {shown(answers)}: lists text (strings) and answer_start (whole numbers) of equal length are "
        "needed, both empty for a question without an answer"
    )


def _is_impossible(row: Columns) -> bool:
    """SQuAD 2.0 says so, csv in words."""
    return str(row.find("is_impossible")).lower() == "true"


def _answers(row: Columns) -> Mapping[str, Any]:
    """SQuAD's object of two lists; a list of answers, each with a start; or the object's lists as columns."""
    if row.has("answers.text"):
        return {"text": row.find("answers.text"), "answer_start": row.find("answers.answer_start")}
    if row.has("answer_start") and not row.has("answers"):
        start = row.get("answer_start")
        is_digits = isinstance(start, str) and start.isascii() and start.isdigit()
        return {"text": [row.text("answer", "answer_text")], "answer_start": [int(start) if is_digits else start]}
    if row.find("answers") is None and _is_impossible(row):
        return NO_ANSWER
    answers = row.structure("answers")
    if isinstance(answers, list) and all(isinstance(one, dict) for one in answers):
        return {name: [one.get(name) for one in answers] for name in NO_ANSWER}
    if not isinstance(answers, dict):
        raise row.fault(f"answers is {shown(answers)}: an object with lists text and answer_start is needed")
    return answers


def _check_answer(row: Columns, context: str, text: str, start: Any) -> None:
    if not isinstance(start, int) or isinstance(start, bool):
        raise row.fault(f"answer_start of {shown(text)} is {shown(start)}: a whole number is needed")
    if not text.strip():
        raise row.fault(f"the answer at {start} is {text!r}: one visible character at least is needed")
    if start >= 0 and context.startswith(text, start):
        return
    stands = f"{shown(context[start : start + len(text)])} stands" if 0 <= start < len(context) else "nothing stands"
    found = context.find(text)
    where = f"it occurs at {found}" if found >= 0 else "it occurs nowhere in the context"
    raise row.fault(
        f"the answer {shown(text)} is not at its answer_start {start}, where {stands}: {where}; characters count from 0"
    )
