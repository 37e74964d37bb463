"""The frozen backbone and its one packed forward pass. Knows tensors and rows; no tasks, no manifests, no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from prefixrack.errors import InvalidRequest, PositionOutOfRange, TokenOutOfRange
from prefixrack_adapters.attention import (
    ATTENTION_NAME,
    AttentionBackend,
    PackLayout,
    Prefix,
    RowLoop,
    register_packed_attention,
)
from prefixrack_adapters.heads import Head
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tokenizer import BackboneTokenizer

if TYPE_CHECKING:
    from prefixrack.types import FailedOutput, Output, Parameters
    from prefixrack_adapters.adapter import Adapter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Families whose model class can be built without its pooler: heads bring their own.
POOLER_OPTION_FAMILIES = ("bert", "roberta", "xlm-roberta")


@dataclass(frozen=True, slots=True)
class PackRow:
    """A row and the adapter that computes it; None is the bare backbone, whose answer is the hidden states."""

    row: Row
    adapter: Adapter | None


class Backbone:
    """One pretrained transformer, never changed. `compute` is safe from one thread at a time."""

    def __init__(
        self,
        model: nn.Module,
        spec: BackboneSpec,
        tokenizer: BackboneTokenizer,
        attention: AttentionBackend | None = None,
    ) -> None:
        self.model = model
        self.spec = spec
        self.tokenizer = tokenizer
        self.attention: AttentionBackend = attention or RowLoop()
        parameter = next(model.parameters())
        self.device = str(parameter.device)
        self.dtype = parameter.dtype

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", dtype: str = "auto") -> Backbone:
        """Load a backbone folder. `device` auto: CUDA where there is one; `dtype` auto: float32.

        Raises UnsupportedBackbone, listing the families that work.
        """
        folder = Path(path)
        spec = BackboneSpec.load(folder)
        tokenizer = BackboneTokenizer.load(folder)
        model = load_model(folder, spec, resolve_dtype(dtype))
        model.requires_grad_(False).eval().to(resolve_device(device))
        return cls(model, spec, tokenizer)

    def check(self, row: Row) -> None:
        """Range checks on the CPU: on a GPU an out-of-range index would kill the process's CUDA context.

        Raises TokenOutOfRange or PositionOutOfRange.
        """
        if not row.token_ids or min(row.token_ids) < 0 or max(row.token_ids) >= self.spec.vocab_size:
            raise TokenOutOfRange(
                f"token ids run from {min(row.token_ids, default=None)} to {max(row.token_ids, default=None)}; "
                f"allowed is 0 to {self.spec.vocab_size - 1}, at least one token"
            )
        if len(row.segment_ids) != len(row.token_ids):
            raise TokenOutOfRange(f"{len(row.segment_ids)} segment ids for {len(row.token_ids)} tokens: one each")
        if min(row.segment_ids) < 0 or max(row.segment_ids) >= max(1, self.spec.num_segments):
            raise TokenOutOfRange(
                f"segment ids run from {min(row.segment_ids)} to {max(row.segment_ids)}; allowed is 0 to "
                f"{max(1, self.spec.num_segments) - 1}"
            )
        last = row.first_position + len(row) - 1
        if row.first_position < 0 or last >= self.spec.max_positions:
            raise PositionOutOfRange(
                f"positions run from {row.first_position} to {last}; the backbone has 0 to "
                f"{self.spec.max_positions - 1}: shorten the input to "
                f"{self.spec.max_tokens(max(0, row.first_position))} tokens or use windows"
            )

    def hidden_states(self, rows: Sequence[Row], prefixes: Sequence[Prefix | None]) -> Tensor:
        """One packed forward pass → [T, hidden_size] on the backbone's device, rows end to end.

        `prefixes[r]` is [num_layers, 2, num_kv_heads, prefix_len, head_dim] or None. The caller has checked the rows.
        """
        token_ids = [token for row in rows for token in row.token_ids]
        segments = [segment for row in rows for segment in row.segment_ids]
        positions = [row.first_position + index for row in rows for index in range(len(row))]
        pack = PackLayout([len(row) for row in rows], prefixes, self.attention)
        ids, segment_ids, position_ids = torch.tensor([token_ids, segments, positions], device=self.device)  # three [T]
        output = self.model(
            input_ids=ids[None], token_type_ids=segment_ids[None], position_ids=position_ids[None], pack=pack
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @torch.inference_mode()
    def compute(self, pack: Sequence[PackRow]) -> list[NDArray[np.float32]]:
        """Logits of every row of a pack, in order: [num_outputs], or [row_len, num_outputs] for every-token heads.

        Rows with no adapter get their hidden states [row_len, hidden_size].
        """
        rows = [entry.row for entry in pack]
        prefixes = [entry.adapter.prefix if entry.adapter is not None else None for entry in pack]
        hidden = self.hidden_states(rows, prefixes)
        starts = row_starts(rows)
        results: dict[int, NDArray[np.float32]] = {}
        for head, members in _by_head(pack):
            states, lengths = gather_states(hidden, starts, members, head)
            logits = states.float() if head is None else head(states)
            for member, part in zip(members, logits.cpu().split(lengths), strict=True):
                is_pooled = head is not None and head.gather == "first_token"
                results[member] = (part[0] if is_pooled else part).numpy()
        return [results[index] for index in range(len(pack))]

    def predict(
        self, adapter: Adapter, inputs: Any, parameters: Parameters | None = None, max_pack_tokens: int = 4096
    ) -> list[Output | FailedOutput]:
        """Answer inputs without a server: one output per input, in order; one faulty input fails alone.

        The adapter may have been loaded for another device or dtype: it is brought to the backbone's.
        """
        from prefixrack_adapters.prediction import predict  # the library's task side needs pydantic

        if parameters is not None and adapter is None:
            raise InvalidRequest("parameters were given without an adapter")
        here = adapter.to(self.device, self.dtype)
        return predict(self, here, inputs, parameters, max_pack_tokens)


def load_model(folder: Path, spec: BackboneSpec, dtype: torch.dtype) -> nn.Module:
    """The stock model with packed attention, on the CPU, memory-mapped. The config object is its own.

    Setting the attention on a shared config would switch every model that uses it.
    """
    register_packed_attention()
    config = AutoConfig.from_pretrained(folder)
    options: dict[str, Any] = {}
    if spec.architecture in POOLER_OPTION_FAMILIES:
        options["add_pooling_layer"] = False
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # unused poolers and heads in the file are expected
    try:
        model: nn.Module = AutoModel.from_pretrained(
            folder, config=config, attn_implementation=ATTENTION_NAME, dtype=dtype, **options
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    return model


def resolve_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch raises either, by what is wrong
        reason = str(error).partition("\n")[0]
        raise InvalidRequest(f"device {device!r} cannot be used ({reason}): use auto, cpu or cuda") from None
    return device


def resolve_dtype(dtype: str) -> torch.dtype:
    if dtype == "auto":
        return torch.float32
    if dtype not in DTYPES:
        raise InvalidRequest(f"dtype {dtype!r} is not known: use auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def row_starts(rows: Sequence[Row]) -> list[int]:
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    return starts


def _by_head(pack: Sequence[PackRow]) -> list[tuple[Head | None, list[int]]]:
    """Row indices grouped by the head that reads them, so that each head runs once per pack."""
    groups: dict[int, tuple[Head | None, list[int]]] = {}
    for index, entry in enumerate(pack):
        head = entry.adapter.head if entry.adapter is not None else None
        groups.setdefault(id(head), (head, []))[1].append(index)
    return list(groups.values())


def gather_states(
    hidden: Tensor, starts: Sequence[int], members: Sequence[int], head: Head | None
) -> tuple[Tensor, list[int]]:
    """The states that a head reads, rows end to end, and how many belong to each row."""
    if head is not None and head.gather == "first_token":
        picks = torch.tensor([starts[member] for member in members], device=hidden.device)
        return hidden[picks], [1] * len(members)
    lengths = [starts[member + 1] - starts[member] for member in members]
    return torch.cat([hidden[starts[member] : starts[member + 1]] for member in members]), lengths
