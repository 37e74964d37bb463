"""How far answers in bfloat16, float16 and int8 are from those in float32, for every family and trained adapters.

Prints one JSON line per backbone, adapter and dtype on standard output, and a table on standard error; see README.md
here.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from machine import device_name, git_commit
from prefixrack.errors import UnsupportedBackbone
from prefixrack.types import Parameters
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.architectures import ARCHITECTURES
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.devices import INT8
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone
from prefixrack_adapters.evaluation import evaluate
from prefixrack_adapters.families import FAMILIES
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.packing import packs_of
from prefixrack_adapters.rows import Row
from prefixrack_adapters.tasks import Prepared, build_task
from prefixrack_adapters.token_rows import token_row
from prefixrack_adapters.training.data import Example, read_examples
from workload import natural_lengths, random_texts

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from tiny import DECODERS, make_manifest, random_arrays, write_backbone

EXAMPLES = Path(__file__).parents[1] / "adapters" / "examples"
DATASETS = {
    "cause": "ecare",
    "emotions": "goemotions",
    "intent": "clinc150",
    "ner": "fewnerd_inter",
    "nli": "snli",
    "qa": "squad2",
}
NUM_LAYERS, HIDDEN_SIZE, PREFIX_LEN = 6, 64, 16
OUTLIER = 30.0  # trained prefixes have single dimensions this much larger than the others
MAX_PACK_TOKENS = 2048

Arrays = list[NDArray[np.float32]]
stderr = Console(stderr=True)


@dataclass(frozen=True)
class Setup:
    """`adapter`: "none" (hidden states of the bare backbone), "random", or a trained one; `outliers`: prefix scaled."""

    backbone: str
    adapter: str
    outliers: bool
    dtype: str
    num_layers: int
    hidden_size: int
    rows: int
    seed: int


@dataclass(frozen=True)
class Difference:
    """From float32: the largest, the largest and the root mean square relative to those of the float32 values."""

    largest: float
    relative: float
    relative_rms: float


@dataclass(frozen=True)
class Result:
    """`decisions` are labels of inputs or tokens, ends of answers, choices; `scores` only where there is gold."""

    hidden: Difference
    logits: Difference | None
    decisions: int
    decisions_changed: int
    nonfinite: int
    scores: dict[str, float] | None


@dataclass(frozen=True)
class Workload:
    """Inputs as rows: `rows_of[i]` are those of input i. `examples` have gold answers."""

    rows_of: list[list[Row]]
    examples: list[Example]

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.rows_of for row in rows]


@dataclass(frozen=True)
class Answers:
    """Of every row: the last hidden states [row_len, hidden_size], and the logits where there is an adapter."""

    hidden: Arrays
    logits: Arrays


def main(
    family: Annotated[list[str] | None, typer.Option(help="Of the supported ones; all by default.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="bfloat16, float16, int8; all by default.")] = None,
    device: str = "auto",
    rows: Annotated[int, typer.Option(help="Rows per family, inputs per trained adapter.")] = 128,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the examples' data sets; $PREFIXRACK_DATA by default.")
    ] = None,
    seed: int = 0,
    commit: Annotated[str | None, typer.Option(help="Named in the output; git's HEAD by default.")] = None,
) -> None:
    """Measure what narrower dtypes change, on seeded random backbones and on MiniLM with the trained examples."""
    table = Table("backbone", "adapter", "dtype", "hidden, relative", "logits, relative", "decisions changed", "scores")
    folder = data or (Path(os.environ["PREFIXRACK_DATA"]) if "PREFIXRACK_DATA" in os.environ else None)
    dtypes = dtype or ["bfloat16", "float16", INT8]
    head = {"commit": commit or git_commit(), "device": device_name(device if torch.cuda.is_available() else "cpu")}
    with tempfile.TemporaryDirectory(prefix="prefixrack-precision-") as work:
        sources = [random_backbone(Path(work) / name, name, rows, seed, device) for name in family or sorted(FAMILIES)]
        sources += [] if family else [minilm(rows, folder, seed, device)]
        for source in sources:
            for setup, result in measured(source, dtypes):
                typer.echo(
                    json.dumps(head | {"setup": {"benchmark": "precision"} | asdict(setup), "result": asdict(result)})
                )
                table.add_row(*shown(setup, result))
    stderr.print(table)


@dataclass(frozen=True)
class Source:
    """One backbone folder and what runs on it. An adapter of None is the bare backbone."""

    name: str
    folder: Path
    device: str
    seed: int
    runs: Sequence[tuple[str, Adapter | None, Workload]]

    def load(self, dtype: str) -> Backbone:
        return Backbone.load(self.folder, self.device, dtype)


def random_backbone(folder: Path, family: str, num_rows: int, seed: int, device: str) -> Source:
    """A seeded backbone of a family, deep enough for errors to add up, with weights that keep activations near 1."""
    names = ARCHITECTURES[family].names
    sizes = {"num_hidden_layers": NUM_LAYERS, "hidden_size": HIDDEN_SIZE}
    options = {names.get(word, word): value for word, value in sizes.items()}
    write_backbone(folder, family, seed, initializer_range=HIDDEN_SIZE**-0.5, **options)
    backbone = Backbone.load(folder, device)
    gather = "last_token" if family in DECODERS else "first_token"
    manifest = make_manifest(
        backbone.spec, labels=("one", "two", "three"), prefix_len=PREFIX_LEN, max_len=160, gather=gather
    )
    arrays = random_arrays(manifest, backbone.spec.hidden_size, seed)
    adapter = Adapter.from_arrays(manifest, arrays, device=backbone.device, dtype=torch.float32)
    with_prefix = random_rows(backbone, manifest, num_rows, seed)
    bare = make_manifest(backbone.spec, prefix_len=0, max_len=160, gather=gather)
    runs = [("none", None, random_rows(backbone, bare, num_rows, seed)), ("random", adapter, with_prefix)]
    return Source(family, folder, device, seed, [*runs, ("random", with_outliers(adapter, seed), with_prefix)])


def random_rows(backbone: Backbone, manifest: Manifest, num_rows: int, seed: int) -> Workload:
    random = np.random.default_rng(seed)
    ids = [random.integers(0, backbone.spec.vocab_size, length) for length in natural_lengths(num_rows, random)]
    rows = [token_row(manifest, backbone.spec, {"input_ids": one.tolist()}) for one in ids]
    return Workload([[row] for row in rows], [])


def with_outliers(adapter: Adapter, seed: int) -> Adapter:
    """In every layer, keys and values alike, one dimension of each head is scaled by `OUTLIER`."""
    assert adapter.prefix is not None, "a deep prefix has dimensions to scale"
    prefix = adapter.prefix.clone()  # [num_layers, 2, num_kv_heads, prefix_len, head_dim]
    picks = np.random.default_rng(seed).integers(0, prefix.shape[-1], prefix.shape[:3])
    for place, dimension in np.ndenumerate(picks):
        prefix[place][:, int(dimension)] *= OUTLIER
    return replace(adapter, prefix=prefix)


def minilm(num_inputs: int, data: Path | None, seed: int, device: str) -> Source:
    """The embedded backbone with the trained examples: on their dev data where it is there, else on seeded texts."""
    folder = resolve_backbone(EMBEDDED)
    backbone = Backbone.load(folder, device)
    runs = []
    for name, dataset in DATASETS.items():
        adapter = Adapter.load(EXAMPLES / name, backbone.device)
        path = data / dataset / "dev.jsonl.gz" if data is not None else None
        examples = read_examples(path, adapter.manifest.task, {})[:num_inputs] if path is not None else []
        inputs = [example.input for example in examples]
        inputs = inputs or random_inputs(
            adapter.manifest.task, random_texts(folder, num_inputs, np.random.default_rng(seed))
        )
        workload = Workload(prepared_rows(backbone, adapter.manifest, inputs), examples)
        runs += [(name, one, workload) for one in (adapter, with_outliers(adapter, seed))]
    return Source("minilm", folder, device, seed, runs)


def random_inputs(task: str, texts: Sequence[str]) -> list[Any]:
    """The texts in the form that a task takes, the next text standing in for what a text is compared with."""
    pairs = list(zip(texts, [*texts[1:], texts[0]], strict=True))
    make: dict[str, Callable[[str, str], Any]] = {
        "token-classification": lambda text, _: {"tokens": text.split()},
        "question-answering": lambda text, other: {"question": other, "context": text},
        "multiple-choice": lambda text, other: {"text": text, "choices": [text, other]},
        "text-classification": lambda text, other: {"text": text, "text_pair": other},
    }
    return [make[task](text, other) for text, other in pairs]


def prepared_rows(backbone: Backbone, manifest: Manifest, inputs: Sequence[Any]) -> list[list[Row]]:
    task = build_task(manifest, backbone.spec, backbone.tokenizer)
    is_cut = manifest.task in ("text-classification", "multiple-choice")
    prepared = task.prepare_many(list(inputs), Parameters(overlong="truncate") if is_cut else Parameters())
    return [list(one.rows) for one in prepared if isinstance(one, Prepared)]


def measured(source: Source, dtypes: Sequence[str]) -> Iterator[tuple[Setup, Result]]:
    exact = source.load("float32")
    backbones = dict(narrower(source, dtypes))
    for index, (name, adapter, workload) in enumerate(source.runs):
        wanted = answers(exact, adapter, workload)
        is_scaled = index > 0 and source.runs[index - 1][0] == name  # each adapter is followed by its scaled copy
        for dtype, backbone in backbones.items():
            try:
                seen = answers(backbone, adapter, workload)
            except RuntimeError as error:  # an operation that this device has not in this dtype
                stderr.print(f"{source.name} in {dtype}: not measured: {error}")
                continue
            spec = backbone.spec
            setup = Setup(
                *(
                    source.name,
                    name,
                    is_scaled,
                    dtype,
                    spec.num_layers,
                    spec.hidden_size,
                    len(workload.rows),
                    source.seed,
                )
            )
            scores = None if is_scaled else score_both(exact, backbone, adapter, workload)
            yield setup, compare(seen, wanted, adapter, workload, scores)


def narrower(source: Source, dtypes: Sequence[str]) -> Iterator[tuple[str, Backbone]]:
    """Those of the dtypes that this family is computed in."""
    for dtype in dtypes:
        try:
            yield dtype, source.load(dtype)
        except UnsupportedBackbone as error:
            stderr.print(f"{source.name} in {dtype}: not measured: {error}")


@torch.inference_mode()
def answers(backbone: Backbone, adapter: Adapter | None, workload: Workload) -> Answers:
    """In packs, as they are served."""
    rows = workload.rows
    here = adapter.to(backbone.device, backbone.dtype) if adapter is not None else None
    hidden, logits = Arrays(), Arrays()
    for members in packs_of(rows, range(len(rows)), MAX_PACK_TOKENS):
        pack = [rows[index] for index in members]
        states = backbone.hidden_states(pack, [here.layers if here is not None else None] * len(pack))
        hidden += [part.numpy() for part in states.float().cpu().split([len(row) for row in pack])]
        logits += backbone.compute([PackRow(row, here) for row in pack]) if here is not None else []
    return Answers(hidden, logits)


def compare(
    seen: Answers, wanted: Answers, adapter: Adapter | None, workload: Workload, scores: dict[str, float] | None
) -> Result:
    decisions = changed = 0
    if adapter is not None:
        ours, theirs = (decide(adapter.manifest, one.logits, workload) for one in (seen, wanted))
        decisions, changed = len(theirs), int((ours != theirs).sum())
    return Result(
        hidden=difference(seen.hidden, wanted.hidden),
        logits=difference(seen.logits, wanted.logits) if adapter is not None else None,
        decisions=decisions,
        decisions_changed=changed,
        nonfinite=sum(int((~np.isfinite(one)).sum()) for one in [*seen.hidden, *seen.logits]),
        scores=scores,
    )


def difference(seen: Arrays, wanted: Arrays) -> Difference:
    ours, theirs = (np.concatenate([one.ravel() for one in arrays]).astype(np.float64) for arrays in (seen, wanted))
    off = np.abs(ours - theirs)
    rms, rms_off = (float(np.sqrt(np.square(values).mean())) for values in (theirs, off))
    return Difference(float(off.max()), float(off.max() / np.abs(theirs).max()), rms_off / rms)


def decide(manifest: Manifest, logits: Arrays, workload: Workload) -> NDArray[np.int64]:
    """What the logits say, one number per decision."""
    match manifest.task:
        case "question-answering":  # where the answer starts and where it ends, in each window
            parts = [one.argmax(axis=0) for one in logits]
        case "multiple-choice":  # one row per choice
            ends = np.cumsum([len(rows) for rows in workload.rows_of])[:-1]
            parts = [group.argmax(axis=0) for group in np.split(np.concatenate(logits), ends)]
        case _ if manifest.decoding.problem == "multi_label":
            parts = [one > 0 for one in logits]
        case _:  # per row, or per token
            parts = [one.argmax(axis=-1) for one in logits]
    return np.concatenate([np.ravel(part).astype(np.int64) for part in parts])


def score_both(
    exact: Backbone, backbone: Backbone, adapter: Adapter | None, workload: Workload
) -> dict[str, float] | None:
    """The main score by dtype."""
    if adapter is None or not workload.examples:
        return None
    scored = {
        one.weights: evaluate(one, adapter.to(one.device, one.dtype), workload.examples) for one in (exact, backbone)
    }
    return {dtype: round(one.value, 4) for dtype, one in scored.items()}


def shown(setup: Setup, result: Result) -> list[str]:
    logits = f"{result.logits.relative:.1e}" if result.logits is not None else "–"
    decisions = f"{result.decisions_changed} of {result.decisions}" if result.decisions else "–"
    scores = " → ".join(f"{score:.4f}" for score in (result.scores or {}).values()) or "–"
    adapter = f"{setup.adapter}, prefix with outliers" if setup.outliers else setup.adapter
    hidden = f"{result.hidden.relative:.1e}" + (f" ({result.nonfinite} not finite)" if result.nonfinite else "")
    return [setup.backbone, adapter, setup.dtype, hidden, logits, decisions, scores]


if __name__ == "__main__":
    typer.run(main)
