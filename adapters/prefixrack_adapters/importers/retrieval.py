"""PT-Retrieval's files (P-tuning-v2/PT-Retrieval, a fork of DPR): two prefixes for text embedding in one file.

`dpr_biencoder.N` is a `torch.save` of a state whose `model_dict` has `question_model.prefix_encoder.*` and
`ctx_model.prefix_encoder.*`: a prefix in every layer, or with `--prompt` vectors in front of the input. An embedding is
the last hidden state of the first token; a prefix moves no positions, and all segments are 0, also for title and text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import InvalidRequest, MalformedBundle
from prefixrack_adapters.importers.base import (
    SAFETENSORS,
    TOWERS,
    Arrays,
    Imported,
    Source,
    deep_prefix,
    iter_state,
    load_pickle,
    make_manifest,
    tensors_of,
    tokenization_for,
    unflatten_prefix,
)
from prefixrack_adapters.importers.frozen import Separated, separate
from prefixrack_adapters.importers.reparameterization import fold
from prefixrack_adapters.manifest import AnyPrefix, DecodingSpec, HeadSpec, PromptSpec

TOOL = "THUDM/P-tuning-v2 PT-Retrieval"
TASK = "text-embedding"
FILE_NAME = re.compile(r"dpr_biencoder\.(?P<epoch>\d+)(\.(?P<step>\d+))?")
MODULE_OF_TOWER = {"question": "question_model.", "context": "ctx_model."}
OWN_MODULES = ("prefix_encoder.",)
SHALLOW = "prefix_encoder.weight"  # PT: `--prompt`
MAX_LEN = 256  # the tool's default `sequence_length`


def is_retrieval(path: Path) -> bool:
    """A file of two towers, or a folder with such files."""
    if path.is_dir():
        return bool(checkpoint_files(path))
    return path.is_file()


def checkpoint_files(folder: Path) -> list[Path]:
    """Oldest first, by the name: `dpr_biencoder.EPOCH.STEP` is written within an epoch, one without step after it."""
    found = {path: FILE_NAME.fullmatch(path.name) for path in folder.iterdir()}
    ages = {path: (int(match["epoch"]), float(match["step"] or "inf")) for path, match in found.items() if match}
    return sorted(ages, key=lambda path: ages[path])


def read(source: Source) -> Imported:
    """One tower of a file as a bundle's content. Raises InvalidRequest, MalformedBundle, TensorMismatch."""
    tower = _tower(source)
    path = source.folder if source.folder.is_file() else checkpoint_files(source.folder)[-1]
    parts = _parts(source, path, tower)
    vectors, prefix = _prefix(source, parts.own)
    manifest = make_manifest(
        source,
        task=TASK,
        labels=[],
        prefix=prefix,
        head=HeadSpec(gather="first_token", layers=[]),
        tokenization=tokenization_for(source, TASK, prefix, longest=MAX_LEN, segments=False),
        decoding=DecodingSpec(normalize=False),
        tool=TOOL,
        method="pt" if prefix.kind == "soft" else "p-tuning-v2",
        settings={"tower": tower, "file": path.name},
    )
    return Imported(manifest, vectors, _found(path, tower, prefix, parts), _assumed(source, tower, parts))


def _prefix(source: Source, own: Arrays) -> tuple[Arrays, AnyPrefix]:
    if SHALLOW in own:
        vectors = own[SHALLOW]
        return {"prompt": vectors}, PromptSpec(prefix_len=len(vectors), width=vectors.shape[1], embedding="twice")
    flat = fold(own)
    return {"prefix": unflatten_prefix(flat, source.spec)}, deep_prefix(source.spec, len(flat), positions="unmoved")


def _tower(source: Source) -> str:
    tower = source.tower or TOWERS[0]
    if tower not in MODULE_OF_TOWER:
        raise InvalidRequest(f"--tower is {tower!r}; {' and '.join(TOWERS)} are allowed")
    if source.task not in (None, TASK):
        raise InvalidRequest(f"--task is {source.task!r}, but {source.folder} holds two towers for {TASK!r}")
    if source.labels:
        raise InvalidRequest(f"--labels was given, but {TASK} has no labels: leave it out")
    return tower


def _parts(source: Source, path: Path, tower: str) -> Separated:
    module = MODULE_OF_TOWER[tower]
    names: list[str] = []

    def of_tower() -> Iterator[tuple[str, NDArray[np.float32]]]:
        for name, values in _model_tensors(path):
            names.append(name)
            if name.startswith(module):
                yield name.removeprefix(module), values

    parts = separate(of_tower(), source, OWN_MODULES)
    if not parts.own:
        raise MalformedBundle(
            f"{path} has no tensor {module}prefix_encoder.*; it has {names[:6] or 'no tensors'}: give a file that "
            "PT-Retrieval trained with a prefix, or another --tower"
        )
    return parts


def _model_tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    if path.suffix == SAFETENSORS:
        yield from iter_state(path)
        return
    state: Any = load_pickle(path)
    if not isinstance(state, dict) or "model_dict" not in state:
        seen = sorted(map(str, state))[:8] if isinstance(state, dict) else type(state).__name__
        raise MalformedBundle(f"{path} has no `model_dict`, it holds {seen}: give PT-Retrieval's file dpr_biencoder.N")
    yield from tensors_of(state["model_dict"], path)


def _found(path: Path, tower: str, prefix: AnyPrefix, parts: Separated) -> dict[str, str]:
    kind = "PT: prompt at the input" if prefix.kind == "soft" else "P-Tuning v2: prefix in every layer"
    return {
        "file": path.name,
        "tower": tower,
        "prompt": f"{kind}, {prefix.prefix_len} vectors",
        "frozen tensors compared": str(parts.num_compared),
    }


def _assumed(source: Source, tower: str, parts: Separated) -> list[str]:
    other = TOWERS[1 - TOWERS.index(tower)]
    notes = [] if source.tower else [f"tower {tower!r}; the file's other one comes with --tower {other}"]
    if not parts.num_compared:
        notes.append("the source holds no frozen weights, so the backbone could not be compared")
    if source.max_len is None:
        notes.append(f"rows of at most {MAX_LEN} tokens, the tool's default (--max-len)")
    return notes
