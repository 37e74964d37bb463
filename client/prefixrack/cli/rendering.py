"""Outputs of a task for people's eyes: bars for scores, coloured spans in the text. Pure: returns rich objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from rich.text import Text

from prefixrack.cli.printing import printable
from prefixrack.types import (
    AnyOutput,
    ChoiceOutput,
    ClassificationOutput,
    EmbeddingOutput,
    EntityOutput,
    FailedOutput,
    JudgedAnswersOutput,
    LabelScore,
    MultiLabelOutput,
    QuestionAnsweringOutput,
    RegressionOutput,
    Span,
    TokenClassificationOutput,
)

BAR_CELLS = 24
MOST_SCORES = 5
MOST_VALUES = 6
CONTEXT_CHARS = 60
SPAN_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


def render(output: AnyOutput, given: Any) -> Text:
    """One output as text of one or more lines. `given` is the input: offsets in codepoints index its text."""
    match output:
        case FailedOutput():
            lines = [Text(f"{output.error.code}: ", "red") + printable(output.error.message)]
        case ClassificationOutput():
            lines = _score_lines(output.scores, {output.label})
        case MultiLabelOutput():
            lines = _score_lines(output.scores, {entry.label for entry in output.labels})
        case RegressionOutput():
            lines = [Text(f"{output.value:.4g}", "bold")]
        case TokenClassificationOutput():
            lines = _span_lines(output.spans, given)
        case QuestionAnsweringOutput():
            lines = _answer_lines(output, given)
        case ChoiceOutput():
            lines = _choice_lines(output, given)
        case EmbeddingOutput():
            lines = [_vector_line(output.embedding)]
        case JudgedAnswersOutput():
            lines = [_score_line(printable(f"{one.label}: {one.text}"), one.score, True) for one in output.judged]
        case EntityOutput():
            lines = _score_lines(output.entities, {output.entity})
    note = [Text("the input was cut short", "yellow")] if getattr(output, "truncated", False) else []
    return Text("\n").join(lines + note)


def _bar(score: float) -> str:
    num_full = round(max(0.0, min(1.0, score)) * BAR_CELLS)
    return "█" * num_full + "░" * (BAR_CELLS - num_full)


def _score_line(name: Text, score: float, is_chosen: bool) -> Text:
    style = "bold green" if is_chosen else "dim"
    return Text.assemble((f"{_bar(score)} {score:6.3f}  ", style), name)


def _score_lines(scores: Sequence[LabelScore], chosen: set[str]) -> list[Text]:
    shown = [entry for index, entry in enumerate(scores) if index < MOST_SCORES or entry.label in chosen]
    lines = [_score_line(printable(entry.label), entry.score, entry.label in chosen) for entry in shown]
    hidden = len(scores) - len(shown)
    more = [Text(f"and {hidden} more labels", "dim")] if hidden else []
    return ([] if chosen else [Text("no label over the threshold", "yellow")]) + lines + more


def _span_lines(spans: Sequence[Span], given: Any) -> list[Text]:
    colours: dict[str, str] = {}
    for span, colour in zip(spans, cycle(SPAN_COLOURS), strict=False):
        colours.setdefault(span.label, colour)
    listed = [
        Text.assemble((f"{span.label} ", f"bold {colours[span.label]}"), printable(span.text), f"  {span.score:.3f}")
        for span in spans
    ]
    text = given if isinstance(given, str) else None
    head = [] if text is None else [_highlighted(text, [(s.start, s.end, colours[s.label]) for s in spans])]
    return head + (listed or [Text("no spans", "dim")])


def _answer_lines(output: QuestionAnsweringOutput, given: Any) -> list[Text]:
    if output.answer is None:
        nearest = [
            Text.assemble("nearest to one: ", printable(one.text), f"  {one.score:.3f}") for one in output.answers[:1]
        ]
        return [Text("no answer", "yellow"), *nearest]
    answer = output.answer
    line = Text.assemble(printable(answer.text, "bold green"), f"  {answer.score:.3f}")
    context = given.get("context") if isinstance(given, dict) else None
    return [line] + ([_surroundings(context, answer.start, answer.end)] if isinstance(context, str) else [])


def _choice_lines(output: ChoiceOutput, given: Any) -> list[Text]:
    choices = given.get("choices") if isinstance(given, dict) else None
    names = choices if isinstance(choices, list) else [str(index) for index in range(len(output.scores))]
    pairs = enumerate(zip(names, output.scores, strict=False))
    return [_score_line(printable(name), score, index == output.choice) for index, (name, score) in pairs]


def _vector_line(vector: Sequence[float]) -> Text:
    shown = " ".join(f"{value:.4f}" for value in vector[:MOST_VALUES])
    return Text.assemble((f"{len(vector)} values  ", "bold"), shown, " …" if len(vector) > MOST_VALUES else "")


def _surroundings(context: str, start: int, end: int) -> Text:
    first, last = max(0, start - CONTEXT_CHARS), min(len(context), end + CONTEXT_CHARS)
    before, after = "…" if first else "", "…" if last < len(context) else ""
    shown = _highlighted(context[first:last], [(start - first, end - first, "green")])
    return Text.assemble((before, "dim"), shown, (after, "dim"))


def _highlighted(text: str, marks: Sequence[tuple[int, int, str]]) -> Text:
    shown = printable(text)
    for start, end, colour in marks:
        shown.stylize(f"bold {colour} underline", start, end)
    return shown
