"""A run's data and the manifest that it starts with. Knows settings and examples; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any

from pydantic import ValidationError

from prefixrack.errors import InputFault, InvalidRequest
from prefixrack.types import Parameters
from prefixrack_adapters.manifest import (
    AnyPrefix,
    BackboneRef,
    DecodingSpec,
    DenseLayer,
    Gather,
    HeadSpec,
    Manifest,
    PrefixSpec,
    PromptSpec,
    Provenance,
    Tagging,
    TokenizationSpec,
    check_tags,
    manifest_problem,
)
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import AnyTask
from prefixrack_adapters.training.data import (
    Example,
    GoldAnswers,
    Similarity,
    check_known_labels,
    check_labels,
    labels_of,
    problem_of,
    read_examples,
)
from prefixrack_adapters.training.settings import TrainSettings

MIN_ROOM = 4  # as a server has it that is handed the bundle
WINDOWED = ("token-classification", "question-answering")


@dataclass(frozen=True, slots=True)
class TrainingData:
    train: list[Example]
    dev: list[Example]
    labels: list[str]
    problem: str


def read_data(settings: TrainSettings) -> TrainingData:
    """Both files, checked against each other. Raises InvalidRequest, naming file and line."""
    task, columns, form = settings.task, settings.columns, settings.input_format
    train = read_examples(settings.train_file, task, columns, form, settings.train_split)
    dev = read_examples(settings.dev_file, task, columns, form, settings.dev_split)
    labels = labels_of(task, train) if settings.labels is None else list(settings.labels)
    problem, of_dev = problem_of(task, train), problem_of(task, dev)
    check_labels(task, problem, labels, settings.train_file)
    if task == "token-classification":
        check_tags(labels, _tagging(labels))
    if settings.labels is None:
        check_known_labels(task, labels, dev)
    else:
        for examples in (train, dev):
            check_known_labels(task, labels, examples, "--labels")
    if of_dev != problem:
        raise InvalidRequest(
            f"{settings.train_file} has targets of problem {problem!r}, {settings.dev_file} of {of_dev!r}: both need "
            "the same columns"
        )
    return TrainingData(train, dev, labels, problem)


def draft_manifest(settings: TrainSettings, spec: BackboneSpec, data: TrainingData) -> Manifest:
    """The manifest of the run before anything is measured. Raises InvalidRequest where options do not fit together."""
    try:
        return _drafted(settings, spec, data)
    except ValidationError as error:
        raise InvalidRequest(
            f"no adapter of task {settings.task!r} for {spec.model_id!r} can have these settings "
            f"({manifest_problem(error)}): change the option that it names"
        ) from None


def _drafted(settings: TrainSettings, spec: BackboneSpec, data: TrainingData) -> Manifest:
    prefix = prefix_spec(settings, spec)
    room = spec.room(prefix)
    if room < MIN_ROOM:
        raise InvalidRequest(
            f"a prefix of {prefix.prefix_len} leaves {room} of the backbone's {spec.max_positions} positions for text; "
            f"at least {MIN_ROOM} are needed: lower --prefix-len"
        )
    has_null = settings.task == "question-answering" and any(_is_unanswerable(one) for one in data.train)
    return Manifest(
        name=settings.name,
        description=settings.description,
        task=settings.task,
        input_format=settings.input_format,
        labels=data.labels,
        backbone=BackboneRef(model_id=spec.model_id, architecture=spec.architecture, fingerprint=spec.fingerprint),
        prefix=prefix,
        head=head_spec(settings, spec, data),
        tokenization=TokenizationSpec(
            max_len=min(settings.max_len, room),
            stride=settings.stride,
            overlong="window" if settings.task in WINDOWED else "error",
        ),
        decoding=DecodingSpec(
            problem=data.problem,
            tagging=_tagging(data.labels),
            no_answer=has_null,
            normalize=settings.task == "text-embedding",
        ),
        provenance=Provenance(
            tool="prefixrack",
            tool_version=version("prefixrack"),
            method=settings.method,
            seed=settings.seed,
            libraries={name: version(name).partition("+")[0] for name in ("torch", "transformers", "tokenizers")},
            settings=_recorded(settings),
        ),
        licence=settings.licence,
    )


def prefix_spec(settings: TrainSettings, spec: BackboneSpec) -> AnyPrefix:
    if settings.method == "prompt-tuning":
        return PromptSpec(prefix_len=settings.prefix_len, width=spec.embedding_size)
    return PrefixSpec(
        prefix_len=settings.prefix_len if settings.has_deep_prefix else 0,
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        layers=None if settings.prefix_layers is None else list(settings.prefix_layers),
    )


def head_spec(settings: TrainSettings, spec: BackboneSpec, data: TrainingData) -> HeadSpec:
    """Linear on every token for spans; a (tanh pooler and) linear on one state for whole texts; none for embeddings."""
    match settings.task:
        case "token-classification":
            return HeadSpec(gather="every_token", layers=[DenseLayer(num_outputs=len(data.labels))])
        case "question-answering":
            return HeadSpec(gather="every_token", layers=[DenseLayer(num_outputs=2)])
        case "text-embedding":
            return HeadSpec(gather=_pooling(settings, spec), layers=[])
        case "multiple-choice":
            num_outputs = 1
        case _:
            num_outputs = 1 if data.problem == "regression" else len(data.labels)
    pooler = [DenseLayer(num_outputs=spec.hidden_size, activation="tanh")] if settings.head == "pooler" else []
    return HeadSpec(gather=_pooling(settings, spec), layers=[*pooler, DenseLayer(num_outputs=num_outputs)])


def _pooling(settings: TrainSettings, spec: BackboneSpec) -> Gather:
    """Of a decoder only the last token has seen the whole row."""
    return settings.pooling or ("last_token" if spec.is_causal else "first_token")


def _is_unanswerable(example: Example) -> bool:
    return isinstance(example.target, GoldAnswers) and not example.target.texts


def _tagging(labels: Sequence[str]) -> Tagging:
    return "bioes" if any(label.startswith(("E-", "S-")) for label in labels) else "bio"


def short_example(task: AnyTask, dev: Sequence[Example]) -> Any:
    """The shortest of the first dev examples that the adapter takes: something to show and to probe with.

    None where it takes none of them as they are, such as texts that are too long.
    """
    return next(_usable(task, sorted(_inputs(dev[:50]), key=lambda value: len(str(value)))), None)


def first_examples(task: AnyTask, dev: Sequence[Example], count: int) -> list[Any]:
    """The first dev inputs that the adapter takes as they are: what a server may compare its answers on."""
    return list(islice(_usable(task, _inputs(dev[: 4 * count])), count))


def _inputs(dev: Sequence[Example]) -> list[Any]:
    return [one.input[0] if isinstance(one.target, Similarity) else one.input for one in dev]


def _usable(task: AnyTask, inputs: Sequence[Any]) -> Iterator[Any]:
    prepared = task.prepare_many(inputs, Parameters())
    return (value for value, one in zip(inputs, prepared, strict=True) if not isinstance(one, InputFault))


def _recorded(settings: TrainSettings) -> dict[str, Any]:
    """What shaped the result; paths of this machine stay out of the bundle."""
    paths = {"backbone", "train_file", "dev_file", "output", "command", "init_from"}
    told_elsewhere = {"name", "task", "description", "licence", "dataset", "source", "seed", "device", "columns"}
    without_effect = {
        "trackers",
        "num_examples",
        "pack_tokens",
        "train_split",
        "dev_split",
        "input_format",
        "method",
        "labels",
    }
    recorded = settings.model_dump(mode="json", exclude=paths | told_elsewhere | without_effect)
    return recorded | {"learning_rate": settings.rate}
