"""From command-line arguments to the inputs of a predict request. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer


@dataclass(frozen=True, slots=True)
class GivenInput:
    """What the user typed; exactly one way of giving inputs is allowed at a time."""

    texts: Sequence[str] = ()
    pair: str | None = None
    question: str | None = None
    context: str | None = None
    choices: Sequence[str] = ()
    json: Sequence[str] = ()

    def inputs(self) -> Any:
        """One input, or a list of them for several texts. Raises BadParameter, naming what is missing."""
        if self.json:
            return self._from_json()
        if self.question is not None or self.context is not None:
            return self._question()
        if self.pair is not None or self.choices:
            return self._single_text()
        if not self.texts:
            raise typer.BadParameter("nothing to predict: give a text, --question with --context, --input or --file")
        return self.texts[0] if len(self.texts) == 1 else list(self.texts)

    def _from_json(self) -> Any:
        if self != GivenInput(json=self.json):
            raise typer.BadParameter("--input is a whole input: give no texts, questions or choices besides")
        inputs = [_parsed(text) for text in self.json]
        return inputs[0] if len(inputs) == 1 else inputs

    def _question(self) -> dict[str, Any]:
        if self.question is None or self.context is None or self.texts or self.pair is not None or self.choices:
            raise typer.BadParameter("a question needs --question and --context, and nothing besides")
        return {"question": self.question, "context": self.context}

    def _single_text(self) -> dict[str, Any]:
        if len(self.texts) != 1 or (self.pair is not None and self.choices):
            raise typer.BadParameter(f"{len(self.texts)} texts: --pair or --choice goes with exactly one text")
        if self.pair is not None:
            return {"text": self.texts[0], "text_pair": self.pair}
        return {"text": self.texts[0], "choices": list(self.choices)}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(
            f"{text[:80]!r} is no JSON ({error}): --input takes what `prefixrack show` has as the example"
        ) from None


def parse_parameter(text: str) -> tuple[str, Any]:
    """`top_k=3`: the value is JSON where it can be, else the text itself."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE, as in top_k=3")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
