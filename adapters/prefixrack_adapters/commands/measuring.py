"""Whom `evaluate` measures: a bundle on this machine, or an adapter on a running server. Knows no tables.

The client is another package, which this one does not import: what is needed of it stands here as protocols, and the
shell's session brings it (`prefixrack.cli.session`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from prefixrack.errors import InvalidRequest
from prefixrack.types import AdapterDetail, AnyOutput
from prefixrack_adapters.embedded import resolve_backbone
from prefixrack_adapters.formats import FORMATS, PLAIN

if TYPE_CHECKING:
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone
    from prefixrack_adapters.scoring import Facts, Outputs
    from prefixrack_adapters.training.data import Example

BATCH_SIZE = 32
CONCURRENCY = 4
# Of text classification: what a problem's targets are, and the column that holds them.
TARGETS: Mapping[str, tuple[str, str]] = {
    "single_label": ("one label", "label"),
    "multi_label": ("several labels", "labels"),
    "regression": ("a number", "value"),
}

Advance = Callable[[int], None]


class Rack(Protocol):
    """What is used of the client."""

    def get_adapter(self, ref: str) -> AdapterDetail: ...

    def predict_many(
        self, adapter: str, inputs: Any, *, concurrency: int, batch_size: int, **parameters: Any
    ) -> Iterator[AnyOutput]: ...


@runtime_checkable
class Session(Protocol):
    """What the shell knows of servers; a dataclass that has the address in `base_url`."""

    def open_client(self) -> AbstractContextManager[Rack]: ...


class Subject(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def facts(self) -> Facts: ...

    def num_steps(self, examples: Sequence[Example]) -> int | None:
        """How far `advance` will go; None: rows are counted, and how many they are shows as they are made."""

    def answer(self, examples: Sequence[Example], advance: Advance) -> Outputs: ...


@dataclass(frozen=True, slots=True)
class LocalBundle:
    name: str
    adapter: Adapter
    backbone: Backbone

    @property
    def facts(self) -> Facts:
        from prefixrack_adapters.evaluation import facts_of

        return facts_of(self.adapter.manifest)

    def num_steps(self, examples: Sequence[Example]) -> int | None:
        return None

    def answer(self, examples: Sequence[Example], advance: Advance) -> Outputs:
        from prefixrack_adapters.training.memory import answer, told_if_out_of_memory

        with told_if_out_of_memory():
            return answer(self.backbone, self.adapter, examples, advance=advance)

    def without_prefix(self) -> LocalBundle:
        return replace(self, name=f"{self.name}, prefix removed", adapter=self.adapter.without_prefix())


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """`name` has the version's number: an alias that moves meanwhile changes nothing here."""

    name: str
    facts: Facts
    rack: Rack

    def num_steps(self, examples: Sequence[Example]) -> int | None:
        return len(examples) * (2 if self.facts.task == "text-embedding" else 1)

    def answer(self, examples: Sequence[Example], advance: Advance) -> Outputs:
        from prefixrack_adapters.evaluation import parameters_of
        from prefixrack_adapters.scoring import inputs_of

        asked = parameters_of(self.facts)
        parameters = {} if asked is None else asked.model_dump(exclude_defaults=True)
        inputs, outputs = inputs_of(self.facts, examples), []
        answers = self.rack.predict_many(
            self.name, inputs, concurrency=CONCURRENCY, batch_size=BATCH_SIZE, **parameters
        )
        for output in answers:
            outputs.append(output)
            advance(1)
        return outputs


def local_bundles(folders: Sequence[Path], backbone_name: str, device: str, dtype: str) -> list[LocalBundle]:
    """Bundles on one backbone, loaded once."""
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone
    from prefixrack_adapters.training.memory import told_if_out_of_memory

    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    with told_if_out_of_memory():
        backbone = Backbone.load(resolve_backbone(backbone_name), device, dtype)
        adapters = [Adapter.load(folder, backbone.device, backbone.dtype) for folder in folders]
    return [LocalBundle(name, adapter, backbone) for name, adapter in zip(names, adapters, strict=True)]


def session_at(session: object, url: str) -> Session:
    """The shell's session, turned to this server. Raises InvalidRequest where there is none."""
    if not isinstance(session, Session):
        raise InvalidRequest("--server needs the key and the settings that the `prefixrack` command holds: call it")
    turned: Session = replace(session, base_url=url)  # type: ignore[type-var]
    return turned


def served_adapter(rack: Rack, ref: str) -> ServedAdapter:
    from prefixrack_adapters.scoring import Facts

    detail = rack.get_adapter(ref)
    facts = Facts(detail.task, tuple(detail.labels), detail.problem, detail.no_answer, detail.input_format)
    return ServedAdapter(f"{detail.name}@{detail.version}", facts, rack)


def read_for(
    facts: Facts, data: str, columns: Mapping[str, str], input_format: str | None, split: str
) -> list[Example]:
    """The file's examples as the adapter takes them.

    A file in a data set's own form is put into words here for an adapter that knows plain inputs only. Raises
    InvalidRequest, for targets that are of another kind than the adapter's answers too, and InputFault for a record
    that cannot be put into words.
    """
    from prefixrack_adapters.training.data import read_examples

    form = input_format or facts.input_format
    examples = read_examples(data, facts.task, columns, form, split)
    _check_targets(facts, examples)
    if form in (PLAIN, facts.input_format):
        return examples
    if facts.input_format != PLAIN:
        raise InvalidRequest(f"--input-format is {form!r}, but the adapter's is {facts.input_format!r}: leave it out")
    return [replace(example, input=_plain(form, example.input)) for example in examples]


def _check_targets(facts: Facts, examples: Sequence[Example]) -> None:
    """One label beside several, or beside a number, would only ever count as wrong."""
    from prefixrack_adapters.training.data import problem_of

    problem = problem_of(facts.task, examples)
    if facts.task == "text-classification" and problem != facts.problem:
        wanted, column = TARGETS[facts.problem]
        raise InvalidRequest(
            f"{examples[0].place}: the target is {TARGETS[problem][0]}, but the adapter answers with {wanted}: name "
            f"the column that holds that with --column {column}=…"
        )


def _plain(form: str, value: Any) -> Any:
    words = FORMATS[form].plain(value)
    if not isinstance(words, (str, dict)):
        raise InvalidRequest(
            f"input format {form!r} makes no plain input: only an adapter that was trained with it can be measured so"
        )
    return words
