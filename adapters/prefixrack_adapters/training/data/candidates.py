"""Records of MultiRC and ReCoRD → examples with a label for each candidate. Knows no files and no tokens.

Read are the data sets' own files (several questions to a passage, nested), one record a question, and for MultiRC also
one record an answer, as copies of the data set have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from prefixrack_adapters.formats.multirc import MULTIRC
from prefixrack_adapters.formats.record import RECORD
from prefixrack_adapters.training.data.columns import Columns, shown
from prefixrack_adapters.training.data.examples import CandidateLabels, Example
from prefixrack_adapters.training.data.readers import check_own_fields

NO, YES = "False", "True"
CANDIDATE_LABELS = (NO, YES)
YES_OR_NO: Mapping[str, str] = {"0": NO, "1": YES, "false": NO, "true": YES}


def read_multirc(rows: Iterable[Columns]) -> Iterator[Example]:
    for is_single, group in groupby(rows, key=lambda row: row.has("answer") and not row.has("answers")):
        if is_single:
            yield from _multirc_of_answers(group)
        else:
            for row in group:
                yield from _multirc_of_questions(row)


def _multirc_of_answers(rows: Iterable[Columns]) -> Iterator[Example]:
    """One record an answer: those of a question follow each other."""
    for (passage, question), group in groupby(rows, key=lambda row: (row.text("passage"), row.text("question"))):
        members = list(group)
        labelled = [(row.text("answer"), _yes_or_no(row, row.get("label"))) for row in members]
        yield _judged(members[0], passage, question, labelled)


def _multirc_of_questions(row: Columns) -> Iterator[Example]:
    passage = row.get("passage")
    if not isinstance(passage, dict):
        yield _judged(row, row.text("passage"), row.text("question"), _labelled(row, row.structure("answers")))
        return
    text = row.as_text(passage.get("text"), "passage.text")
    for question in _objects(row, passage.get("questions"), "passage.questions"):
        yield _judged(row, text, question.get("question"), _labelled(row, question.get("answers")))


def _labelled(row: Columns, answers: Any) -> list[tuple[str, str]]:
    """Answers with their labels, or beside a list of them."""
    if isinstance(answers, list) and answers and all(isinstance(one, str) for one in answers):
        labels = row.structure("labels", "label")
        if not isinstance(labels, list) or len(labels) != len(answers):
            raise row.fault(f"labels is {shown(labels)}: a label for each of {len(answers)} answers is needed")
        return [(answer, _yes_or_no(row, label)) for answer, label in zip(answers, labels, strict=True)]
    objects = _objects(row, answers, "answers")
    return [(row.as_text(one.get("text"), "text of an answer"), _yes_or_no(row, one.get("label"))) for one in objects]


def _judged(row: Columns, passage: str, question: Any, labelled: Sequence[tuple[str, str]]) -> Example:
    names = [name for name, _ in labelled]
    fields = {"passage": passage, "question": row.as_text(question, "question"), "answers": names}
    for name in sorted(set(names)):
        if len({label for one, label in labelled if one == name}) > 1:
            raise row.fault(f"the answer {shown(name)} is both true and false: give it once")
    check_own_fields(row, MULTIRC, fields)
    return Example(fields, CandidateLabels(tuple(names), tuple(label for _, label in labelled)), row.place)


def _yes_or_no(row: Columns, label: Any) -> str:
    known = YES_OR_NO.get(str(label).lower()) if isinstance(label, (str, bool, int)) else None
    if known is None:
        raise row.fault(f"the label of an answer is {shown(label)}: true or false (or 1 or 0) is needed")
    return known


def read_record(rows: Iterable[Columns]) -> Iterator[Example]:
    for row in rows:
        passage = row.get("passage")
        if isinstance(passage, dict):
            yield from _record_of_passage(row, passage)
        else:
            gold = row.structure("answers")
            yield _ranked(row, row.text("passage"), row.text("query"), row.texts("entities"), gold)


def _record_of_passage(row: Columns, passage: Mapping[str, Any]) -> Iterator[Example]:
    """The data set's own files name entities by their first and last character."""
    text = row.as_text(passage.get("text"), "passage.text")
    spans = _objects(row, passage.get("entities"), "passage.entities")
    entities = list(dict.fromkeys(_entity(row, text, span) for span in spans))
    for query in _objects(row, row.structure("qas"), "qas"):
        gold = [one.get("text") for one in _objects(row, query.get("answers"), "answers")]
        yield _ranked(row, text, query.get("query"), entities, gold)


def _entity(row: Columns, text: str, span: Mapping[str, Any]) -> str:
    start, end = span.get("start"), span.get("end")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start <= end < len(text):
        raise row.fault(f"the entity {shown(span)} does not lie in a passage of {len(text)} characters")
    return text[start : end + 1]


def _ranked(row: Columns, passage: str, query: Any, entities: Sequence[str], answers: Any) -> Example:
    fields = {"passage": passage, "query": row.as_text(query, "query"), "entities": list(entities)}
    gold = set(row.as_texts(answers, "answers"))
    if gold.isdisjoint(entities):
        raise row.fault(f"none of the answers {shown(sorted(gold))} is among the entities {shown(entities)}")
    check_own_fields(row, RECORD, fields)
    labels = tuple(YES if entity in gold else NO for entity in entities)
    return Example(fields, CandidateLabels(tuple(entities), labels), row.place)


def _objects(row: Columns, value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise row.fault(f"{what} is {shown(value)}: a list of objects is needed, one at least")
    return value


CANDIDATE_READERS: Mapping[str, Callable[[Iterable[Columns]], Iterator[Example]]] = {
    MULTIRC.name: read_multirc,
    RECORD.name: read_record,
}
