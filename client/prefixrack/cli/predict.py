"""`prefixrack predict`: texts from the command line or a JSON Lines file. Knows arguments; the client does the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from prefixrack.cli.completion import adapter_refs
from prefixrack.cli.exits import ExitCode
from prefixrack.cli.inputs import GivenInput, parse_parameter
from prefixrack.cli.printing import console, show_json, show_json_line, show_line
from prefixrack.cli.rendering import render
from prefixrack.cli.session import JsonOption, open_client
from prefixrack.client import Client
from prefixrack.lines import predict_lines
from prefixrack.types import BulkLine, FailedOutput, PredictResponse

STDIN = Path("-")


def predict(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(help="name, name@alias or name@7", autocompletion=adapter_refs)],
    texts: Annotated[list[str] | None, typer.Argument(help="One text or several.")] = None,
    pair: Annotated[str | None, typer.Option(help="The second text, for adapters of pairs.")] = None,
    question: Annotated[str | None, typer.Option(help="The question, with --context.")] = None,
    qa_context: Annotated[str | None, typer.Option("--context", help="Where the answer stands.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="One choice; repeat it for each.")] = None,
    input_json: Annotated[
        list[str] | None, typer.Option("--input", help="One input as JSON, like the example of `show`; repeatable.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="JSON Lines, one input a line; - for stdin. With --output csv too.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the answers to --file here, .jsonl or .csv; again goes on."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="A column of the csv that makes the input; repeat it for several.")
    ] = None,
    param: Annotated[list[str] | None, typer.Option(help="Task parameter as NAME=VALUE, as in top_k=3.")] = None,
    json: JsonOption = False,
) -> None:
    """Ask an adapter. With --file --json the answers are JSON Lines."""
    given = GivenInput(texts or (), pair, question, qa_context, choice or (), input_json or ())
    parameters = dict(parse_parameter(text) for text in param or ())
    if file is not None and given != GivenInput():
        raise typer.BadParameter("--file brings the inputs: give no others beside it")
    if output is not None and (file is None or file == STDIN):
        raise typer.BadParameter("--output goes with --file: name the file that holds the inputs")
    with open_client(context) as client:
        if file is not None and output is not None:
            has_failed = _map_file(client, adapter, file, output, column, parameters, json)
        elif file is None:
            has_failed = _predict_given(client, adapter, given, parameters, json)
        else:
            has_failed = _predict_file(client, adapter, file, parameters, json)
    if has_failed:
        raise typer.Exit(ExitCode.FAILED)


def _map_file(
    client: Client,
    adapter: str,
    file: Path,
    output: Path,
    columns: Sequence[str] | None,
    parameters: Mapping[str, Any],
    as_json: bool,
) -> bool:
    try:
        done = client.map_file(
            adapter, file, output, columns=columns, progress=False if as_json else None, **parameters
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        show_json(asdict(done))
    else:
        resumed = f", {done.num_resumed} were there already" if done.num_resumed else ""
        show_line(
            f"{done.num_inputs} inputs by {done.adapter}{resumed}, {done.num_failed} failed: {output}", "bold green"
        )
    return done.num_failed > 0


def _predict_given(
    client: Client, adapter: str, given: GivenInput, parameters: Mapping[str, Any], as_json: bool
) -> bool:
    inputs = given.inputs()
    response = client.predict(adapter, inputs, **parameters)
    if as_json:
        show_json(response)
    else:
        _show_outputs(response, inputs if isinstance(inputs, list) else [inputs], parameters)
    return any(isinstance(output, FailedOutput) for output in response.outputs)


def _show_outputs(response: PredictResponse, inputs: list[Any], parameters: Mapping[str, Any]) -> None:
    out = console()
    out.print(f"{response.adapter.name}@{response.adapter.version}", style="dim", markup=False)
    for given, output in zip(inputs, response.outputs, strict=True):
        out.print(render(output, _marked(given, parameters)))


def _predict_file(client: Client, adapter: str, file: Path, parameters: Mapping[str, Any], as_json: bool) -> bool:
    has_failed = False
    with _open_lines(file) as lines:
        answers = predict_lines(lines, lambda inputs: client.predict_many(adapter, inputs, **parameters))
        for line, answer in answers:
            has_failed = has_failed or answer.error is not None
            if as_json:
                show_json_line(answer)
            else:
                _show_answer(answer, _marked(line.given, parameters))
    return has_failed


def _show_answer(answer: BulkLine, given: Any) -> None:
    output = answer.output
    if output is None:
        assert answer.error is not None, "a line has an output or an error"
        output = FailedOutput(error=answer.error)
    console().print(f"[{answer.index}]", render(output, given), markup=False)


def _marked(given: Any, parameters: Mapping[str, Any]) -> Any:
    """The input to mark spans in; none where offsets are not codepoints, since they would mark the wrong place."""
    return given if parameters.get("offset_unit", "codepoint") == "codepoint" else None


@contextmanager
def _open_lines(file: Path) -> Iterator[TextIO]:
    if file == STDIN:
        yield sys.stdin
        return
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        yield lines
