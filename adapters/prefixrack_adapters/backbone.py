"""The frozen backbone and its one packed forward pass. Knows tensors and rows; no tasks, no manifests, no HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prefixrack.errors import InvalidRequest, PositionOutOfRange, TokenOutOfRange, UnsupportedBackbone
from prefixrack_adapters.architectures import GLM_2021
from prefixrack_adapters.attention import AttentionBackend, PackLayout, Prefix, RowLoop
from prefixrack_adapters.devices import DTYPES, INT8, current, fastest_dtype, resolve_device, resolve_dtype
from prefixrack_adapters.embedded import resolve_backbone
from prefixrack_adapters.families import Family, load_family, load_family_for_inference
from prefixrack_adapters.families.stock import stored_dtype
from prefixrack_adapters.filler import filler_for
from prefixrack_adapters.gates import GatedPrefix
from prefixrack_adapters.gpu import has_kernels
from prefixrack_adapters.native.attention import NativeAttention
from prefixrack_adapters.native.compiler import compiled
from prefixrack_adapters.packing import Prompt, RowSpan, pack_tokens, packs_of, row_spans, with_positions, with_prompts
from prefixrack_adapters.padded_attention import PaddedAttention
from prefixrack_adapters.readout import HeadByHead, PendingLogits, Reading, Readout, Share
from prefixrack_adapters.rows import Row
from prefixrack_adapters.small_heads import SmallHeads
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tokenizer import BackboneTokenizer

if TYPE_CHECKING:
    from prefixrack.types import FailedOutput, Output, Parameters
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.gpu.graphs import RecordedPasses

LOG = logging.getLogger(__name__)
LoadFamily = Callable[[Path, str, torch.dtype], Family]


@dataclass(frozen=True, slots=True)
class PackRow:
    """A row and the adapter that computes it; None is the bare backbone, whose answer is the hidden states.

    `predicting` are tokens whose next word is asked for, in place of what the head says. `is_exact` rows are for
    `BesideReference`; a backbone alone has one way to compute.
    """

    row: Row
    adapter: Adapter | None
    predicting: range | None = None
    is_exact: bool = False


class Backbone:
    """One pretrained transformer, never changed. `compute` is safe from one thread at a time."""

    def __init__(
        self,
        family: Family,
        spec: BackboneSpec,
        tokenizer: BackboneTokenizer,
        attention: AttentionBackend | None = None,
        weights: str | None = None,
    ) -> None:
        """`weights` is how those of the layers are kept where that is not the dtype that is computed in."""
        self.family = family
        self.spec = spec
        self.tokenizer = tokenizer
        parameter = next(self.model.parameters())
        self.device = str(parameter.device)
        self.attention: AttentionBackend = attention or (RowLoop() if self.device == "cpu" else PaddedAttention())
        self.readout: Readout = HeadByHead()
        self._recorded: RecordedPasses | None = None
        self.dtype = parameter.dtype
        self.weights = weights or str(self.dtype).removeprefix("torch.")

    @property
    def is_asynchronous(self) -> bool:
        """Whether a pack is computed on the side after `launch`."""
        return self.device != "cpu"

    @property
    def model(self) -> nn.Module:
        return self.family.model

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", dtype: str = "auto") -> Backbone:
        """Load a folder, a hub id or "embedded". `device` auto: CUDA where there is one; `dtype` auto: float32.

        `dtype` int8 is for inference on a CPU: the layers' weights are kept in int8, the rest is in the fastest dtype.
        Raises UnsupportedBackbone, listing the families that work.
        """
        return cls._load(path, device, dtype, load_family)

    @classmethod
    def load_for_inference(
        cls, path: str | Path, device: str = "auto", dtype: str = "auto", record_passes: bool = True
    ) -> Backbone:
        """As `load` and `optimise_for_inference`, in less time: BERT's family does without the stock model."""
        backbone = cls._load(path, device, dtype, load_family_for_inference)
        backbone.optimise_for_inference(record_passes)
        return backbone

    @classmethod
    def _load(cls, path: str | Path, device: str, dtype: str, load: LoadFamily) -> Backbone:
        folder = path if isinstance(path, Path) else resolve_backbone(path)
        spec = BackboneSpec.load(folder)
        tokenizer = BackboneTokenizer.load(folder, spec)
        if dtype == INT8:
            return cls(_quantised_family(folder, spec, device), spec, tokenizer, weights=INT8)
        family = load(folder, spec.architecture, resolve_dtype(dtype))
        family.model.requires_grad_(False).eval().to(resolve_device(device))
        return cls(family, spec, tokenizer)

    def optimise_for_inference(self, record_passes: bool = True) -> None:
        """Fuse what can be fused, before the first forward pass and for good: there are no gradients afterwards.

        On a CPU attention is compiled, where there is a compiler, and small heads are read together. On a GPU attention
        and heads run in kernels, where there is Triton, and families that allow it have their passes recorded. What is
        missing is logged.
        """
        self.family.optimise_for_inference()
        if self.device == "cpu":
            self.attention = compiled_attention() or self.attention
            self.readout = SmallHeads()
        elif has_kernels():
            with current(self.device):
                self._use_kernels(record_passes)

    def _use_kernels(self, record_passes: bool) -> None:
        from prefixrack_adapters.gpu.attention import TritonAttention  # Triton is not there without a GPU
        from prefixrack_adapters.gpu.graphs import RecordedPasses
        from prefixrack_adapters.gpu.readout import HeadsTogether

        attention = TritonAttention()
        self.attention = attention
        self.readout = HeadsTogether.compiled(self.spec.hidden_size, self.dtype, torch.device(self.device))
        if record_passes and self.family.is_recordable:
            self._recorded = RecordedPasses(self.family, attention, self.spec.num_layers)

    def check(self, row: Row, num_prompt_tokens: int = 0) -> None:
        """Range checks on the CPU: on a GPU an out-of-range index would kill the process's CUDA context.

        `num_prompt_tokens` is what a soft prompt adds to the row's positions. Raises TokenOutOfRange or
        PositionOutOfRange, or InvalidRequest for a context that the backbone or the row has no place for.
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
        self._check_context(row)
        if row.position_ids:
            self._check_positions(row, num_prompt_tokens)
            return
        last = row.first_position + num_prompt_tokens + len(row) - 1
        if row.first_position < 0 or last >= self.spec.max_positions:
            raise PositionOutOfRange(
                f"positions run from {row.first_position} to {last}; the backbone has 0 to "
                f"{self.spec.max_positions - 1}: shorten the input to "
                f"{self.spec.max_tokens(max(0, row.first_position))} tokens or use windows"
            )

    def _check_context(self, row: Row) -> None:
        """Other families have one way of looking at a row, which a context must not change unnoticed."""
        context = row.context_len
        if context is not None and (self.spec.architecture != GLM_2021 or not 0 < context <= len(row)):
            raise InvalidRequest(
                f"context_length is {context} for {len(row)} tokens of a {self.spec.architecture!r} backbone: "
                "only GLM (2021) takes it, from 1 to the number of tokens"
            )

    def _check_positions(self, row: Row, num_prompt_tokens: int) -> None:
        """Positions that came with the row: as many as tokens in each of two dimensions, each in the tables."""
        sizes = [len(dimension) for dimension in row.position_ids]
        if sizes != [len(row)] * 2 or self.spec.architecture != GLM_2021:
            raise PositionOutOfRange(
                f"position_ids has dimensions of {sizes} for {len(row)} tokens: only GLM (2021) takes them, and two "
                "dimensions of one position per token"
            )
        places, blocks = row.position_ids
        lowest, highest = min(*places, *blocks), max(max(places) + num_prompt_tokens, *blocks)
        if lowest < 0 or highest >= self.spec.max_positions:
            raise PositionOutOfRange(
                f"position_ids run from {lowest} to {highest}, the soft prompt's {num_prompt_tokens} tokens included; "
                f"the backbone has 0 to {self.spec.max_positions - 1}"
            )

    def hidden_states(
        self,
        rows: Sequence[Row],
        prefixes: Sequence[Prefix | GatedPrefix | None],
        prompts: Sequence[Prompt | None] | None = None,
    ) -> Tensor:
        """One packed forward pass → [T, hidden_size] on the backbone's device, rows end to end.

        `prefixes[r]` is [num_layers, 2, num_kv_heads, prefix_len, head_dim], or gated, or None. A row with a prompt is
        longer by it: the states of the prompt vectors come first. The caller has checked the rows.
        """
        prompts = prompts or [None] * len(rows)
        spans = row_spans(rows, prompts)
        return self._hidden_states(rows, prefixes, prompts, spans)[: spans[-1].end]

    def _hidden_states(
        self,
        rows: Sequence[Row],
        prefixes: Sequence[Prefix | GatedPrefix | None],
        prompts: Sequence[Prompt | None],
        spans: Sequence[RowSpan],
    ) -> Tensor:
        """As `hidden_states`. `spans` are the rows' places; behind them there may be a filler's states."""
        filler = filler_for(spans[-1].end, self.spec) if self.family.compiles_sizes else None
        if filler is not None:
            rows, prefixes, prompts = [*rows, filler], [*prefixes, None], [*prompts, None]
            spans = [*spans, RowSpan(spans[-1].end, 0, len(filler))]
        rows = with_positions(rows, self.spec.uncounted_token)
        lengths = [span.end - span.start for span in spans]
        pack = PackLayout(lengths, prefixes, self.attention, list(map(context_len, rows, spans)))
        has_prompts = any(prompt is not None for prompt in prompts)
        if self._recorded is not None and not has_prompts:
            recorded = self._recorded.hidden_states(rows, pack)
            if recorded is not None:
                return recorded
        tokens = pack_tokens(rows, self.device)
        words = self.family.words(tokens.ids)
        if has_prompts:
            words, tokens = with_prompts(self.family, words, tokens, rows, prompts)
        return self.family.hidden_states(words, tokens.segments, tokens.positions, pack)

    def compute(self, pack: Sequence[PackRow]) -> list[NDArray[np.float32]]:
        """Logits of every row of a pack, in order: [num_outputs], or [row_len, num_outputs] for every-token heads.

        Rows with no adapter get their hidden states [row_len, hidden_size].
        """
        return self.launch(pack).wait()

    @torch.inference_mode()
    def launch(self, pack: Sequence[PackRow]) -> PendingLogits:
        """Begin a pack; `wait` gives what `compute` does. On a GPU it is under way when this returns."""
        with current(self.device):
            return self._launch(pack)

    def _launch(self, pack: Sequence[PackRow]) -> PendingLogits:
        order = sorted(range(len(pack)), key=lambda index: len(pack[index].row))  # attention takes equals at once
        ordered = [pack[index] for index in order]
        rows = [entry.row for entry in ordered]
        prefixes = [entry.adapter.layers if entry.adapter is not None else None for entry in ordered]
        prompts = [soft_prompt(entry.adapter) for entry in ordered]
        spans = row_spans(rows, prompts)
        hidden = self._hidden_states(rows, prefixes, prompts, spans)
        heads = {
            index: entry.adapter.head if entry.adapter is not None else None
            for index, entry in enumerate(ordered)
            if entry.predicting is None
        }
        readings = [*self.readout.read(hidden, spans, heads), *self._next_words(ordered, hidden, spans)]
        return PendingLogits(readings, order)

    def _next_words(self, pack: Sequence[PackRow], hidden: Tensor, spans: Sequence[RowSpan]) -> list[Reading]:
        """Of the rows that ask for it: scores of every word at the tokens that predict one."""
        readings = []
        for index, (entry, span) in enumerate(zip(pack, spans, strict=True)):
            if entry.predicting is not None:
                asked = entry.predicting
                states = hidden[span.first_token + asked.start : span.first_token + asked.stop]
                scores = self.family.vocabulary_logits(states).float()
                readings.append(Reading(scores, [Share(index, 0, len(scores), scores.shape[1])]))
        return readings

    def logits(
        self, rows: Sequence[tuple[Adapter, Mapping[str, Any]]], max_pack_tokens: int = 4096
    ) -> list[NDArray[np.float32]]:
        """Logits of rows of token ids, any mix of adapters, run as packs: one float32 array per row, in order.

        A row is `{"input_ids": [...]}`, with "token_type_ids" where there are any, and for GLM "position_ids" [2, S].
        Shapes: [num_outputs] for one answer per row, [S, num_outputs] for one per token, [hidden_size] for embeddings.
        GLM also fills blanks: with "context_length" and "answer_ids" (`token_rows.with_answer`) the answer is
        [num_answer_ids, vocab_size], whatever the adapter's head. Raises InvalidRequest, TokenOutOfRange,
        PositionOutOfRange, BackboneMismatch, UnsupportedBackbone.
        """
        from prefixrack_adapters.bundle import check_backbone  # the library's bundle side needs pydantic
        from prefixrack_adapters.token_rows import token_row, with_answer

        entries = []
        for adapter, fields in rows:
            check_backbone(adapter.manifest, self.spec)
            whole, predicting = with_answer(fields)
            row = token_row(adapter.manifest, self.spec, whole)
            self.check(row, adapter.manifest.prefix.num_prompt_tokens)
            entries.append(PackRow(row, adapter.to(self.device, self.dtype), predicting))
        packs = packs_of([entry.row for entry in entries], range(len(entries)), max_pack_tokens)
        return [logits for pack in packs for logits in self.compute([entries[index] for index in pack])]

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


def _quantised_family(folder: Path, spec: BackboneSpec, device: str) -> Family:
    """From weights in the files' own dtype, which is mapped: what is not kept is never copied."""
    if device not in ("auto", "cpu"):
        raise UnsupportedBackbone(f"int8 is for CPUs, seen device {device!r}: use bfloat16 or float32 there")
    family = load_family_for_inference(folder, spec.architecture, stored_dtype(folder) or torch.float32)
    family.model.requires_grad_(False).eval()
    family.quantise(DTYPES[fastest_dtype("cpu")])
    return family


def compiled_attention() -> AttentionBackend | None:
    """The attention kernel in C, or None, with a line in the log, where it cannot be had."""
    return compiled(NativeAttention, LOG, "attention is not compiled but runs row by row, which is slower")


def context_len(row: Row, span: RowSpan) -> int | None:
    """How many vectors of a row see each other: a soft prompt stands before the context and is part of it."""
    return None if row.context_len is None else span.prompt_len + row.context_len


def soft_prompt(adapter: Adapter | None) -> Prompt | None:
    if adapter is None or adapter.prompt is None:
        return None
    prefix = adapter.manifest.prefix
    assert prefix.kind == "soft", "an adapter with prompt vectors has a manifest that says so"
    return Prompt(adapter.prompt, prefix.embedding)
