"""A test stand: one backbone in this process and a folder for adapters; what all runs of one call share."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from transformers.utils.logging import disable_progress_bar

from machine import device_name, git_commit
from prefixrack_adapters.backbone import Backbone
from prefixrack_server.allocator import keep_freed_memory
from prefixrack_server.backbone_loading import SWITCH_INTERVAL_S
from prefixrack_server.engine_config import USUAL_PACK_TOKENS, EngineConfig
from prefixrack_server.pack_size import measured_size
from prefixrack_server.primitive_caches import bound_primitive_caches
from shapes import backbone_folder
from workload import (
    POPULARITIES,
    RandomAdapter,
    Request,
    make_rows,
    popular_indices,
    random_texts,
    write_adapters,
)


@dataclass(frozen=True)
class Stand:
    shape: str
    folder: Path
    backbone: Backbone
    work: Path
    threads: int  # of this process
    server_threads: int | None  # as asked for; None leaves it to the server, as a user does
    seed: int
    commit: str

    @property
    def dtype(self) -> str:
        """As a server is told."""
        return self.backbone.weights

    @property
    def computed_in(self) -> str:
        """The dtype of what goes through the layers; weights in int8 have another."""
        return str(self.backbone.dtype).removeprefix("torch.")

    def adapters(self, num_adapters: int, prefix_len: int = 16) -> list[RandomAdapter]:
        return write_adapters(self.work / f"adapters-{prefix_len}", self.backbone.spec, num_adapters, prefix_len)

    def texts(self, num_rows: int, row_len: int | None = None) -> list[str]:
        """Of natural lengths, or all of `row_len` tokens."""
        return random_texts(self.folder, num_rows, np.random.default_rng(self.seed), row_len)

    def requests(
        self, texts: Sequence[str], adapters: Sequence[RandomAdapter], popularity: str, draw: int = 0
    ) -> list[Request]:
        """One per text. `draw` numbers the drawings of adapters, which are alike, for the same texts."""
        rows = make_rows(texts, adapters[0].manifest, self.backbone.spec, self.backbone.tokenizer)
        random = np.random.default_rng([self.seed, POPULARITIES.index(popularity), draw])
        indices = popular_indices(popularity, len(rows), len(adapters), random)
        return [Request(adapters[index], text, row) for index, text, row in zip(indices, texts, rows, strict=True)]

    def pack_tokens(self) -> int:
        """How large packs shall be: on a GPU what its engine would find out, which computes packs of all sizes before
        any is timed."""
        if not self.backbone.is_asynchronous:
            return USUAL_PACK_TOKENS
        return measured_size(self.backbone, EngineConfig().pack_rows(is_on_gpu=True), time.monotonic, lambda: True)

    def emit(self, benchmark: str, setup: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Print the line of one run."""
        shared = {"benchmark": benchmark, "backbone": self.shape, "dtype": self.dtype, "threads": self.threads}
        print_line(self.commit, device_name(self.backbone.device), shared | dict(setup), result)


@contextmanager
def stand(
    shape: str,
    *,
    dtype: str = "float32",
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    commit: str | None = None,
) -> Iterator[Stand]:
    """Load the backbone as the server does; the folder goes with the block."""
    here_threads = threads or torch.get_num_threads()
    torch.set_num_threads(here_threads)
    keep_freed_memory()
    bound_primitive_caches()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="prefixrack-benchmark-") as work:
        folder = backbone_folder(shape, Path(work))
        backbone = Backbone.load_for_inference(folder, device=device, dtype=dtype)
        work_folder, commit = Path(work), commit or git_commit()
        yield Stand(Path(shape).name, folder, backbone, work_folder, here_threads, threads, seed, commit)


def print_line(commit: str, device: str, setup: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    typer.echo(json.dumps({"commit": commit, "device": device, "setup": setup, "result": result}))
