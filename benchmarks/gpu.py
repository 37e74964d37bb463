"""What a pack of many adapters costs on a GPU, against the bare backbone, stock transformers and its GEMMs alone.

Runs with torch, transformers and safetensors beside the project, without the server. Every contestant computes the
same rows in turns; equality is checked before anything is timed. One JSON line a run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, DynamicCache

from cuda_graph import Recorded
from gpu_shapes import (
    FIRST_POSITION,
    SHAPES,
    RandomAdapter,
    lengths_of,
    pack_of,
    pool_bytes,
    random_adapters,
    random_backbone,
    random_model,
)
from machine import device_name, git_commit
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.padded_attention import PaddedAttention
from prefixrack_adapters.readout import PendingLogits

DTYPE = torch.bfloat16
PADDED_ROWS = 64  # of a padded batch of the stock model; its rows are sorted by length first
ALONE_ROWS = 32  # of the run that calls stock transformers once for each adapter
IN_FLIGHT = 2  # packs: one computed, one prepared, as the engine does
PASSES = 3  # over the packs in one turn: a turn begins and ends with an idle device, which a busy server never has
MEMORY_SHARE = 0.7  # of the device, for adapters
LIMIT_S = 420.0  # leaves the last measurement a minute, of eight in all
MAIN, DATA_SETS = "natural", ("clinc150", "snli", "squad2")
PREFIX_LENS = (16, 128)
NUMBERS = (1, 100, 1_000, 10_000)
DEEPEST = "deberta-xlarge"
STARTED_AT = time.monotonic()


@dataclass(frozen=True, slots=True)
class Contest:
    """Seconds of each contestant's turns, divided by how often a turn does the work."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> float:
        """How many times as fast as `other` is `name`: the median over turns, which come in pairs."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return round(statistics.median(theirs / own for own, theirs in pairs), 3)


class Contestant(NamedTuple):
    """Something to time. One call of `run` does the work `times` times."""

    run: Callable[[], object]
    times: int = 1


def contest(contestants: Mapping[str, Contestant], rounds: int) -> Contest:
    """In turns, after two turns each that do not count. The order changes: a GPU slows down as it gets hot, and whoever
    came after the same one each time would have the better or the worse of it."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order, random = list(contestants.items()), Random(0)
    for turn in range(rounds + 2):
        random.shuffle(order)
        for name, (run, times) in order:
            torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            torch.cuda.synchronize()
            if turn >= 2:
                seconds[name].append((time.perf_counter() - started) / times)
    return Contest(seconds)


class Flights:
    """Packs one behind the other, `PASSES` times, the next begun before the last is waited for."""

    def __init__(self, backbone: Backbone, packs: Sequence[Sequence[PackRow]]) -> None:
        self._backbone = backbone
        self._packs = packs

    def __call__(self) -> None:
        under_way: list[PendingLogits] = []
        for pack in [*self._packs] * PASSES:
            under_way.append(self._backbone.launch(pack))
            if len(under_way) == IN_FLIGHT:
                under_way.pop(0).wait()
        for pending in under_way:
            pending.wait()


class GemmLimit:
    """The linear layers of the encoder alone, for as many tokens: query, key and value in one product."""

    def __init__(self, shape: str, num_tokens: int, device: str) -> None:
        options = SHAPES[shape]
        width, inner = options["hidden_size"], options["intermediate_size"]
        sizes = [(width, 3 * width), (width, width), (width, inner), (inner, width)] * options["num_hidden_layers"]
        self._weights = [torch.randn(out, into, device=device, dtype=DTYPE) for into, out in sizes]
        self._biases = [torch.randn(out, device=device, dtype=DTYPE) for _, out in sizes]
        self._inputs = {size: torch.randn(num_tokens, size, device=device, dtype=DTYPE) for size in (width, inner)}
        self.replay = Recorded(self._products).replay

    @torch.inference_mode()
    def _products(self) -> None:
        for weight, bias in zip(self._weights, self._biases, strict=True):
            F.linear(self._inputs[weight.shape[1]], weight, bias)


def replay_all(limits: Sequence[GemmLimit]) -> None:
    for limit in limits:
        limit.replay()


class StockPadded:
    """Stock transformers, its default attention, one task, no adapters: rows sorted by length, in padded batches."""

    def __init__(self, shape: str, device: str) -> None:
        options = dict(SHAPES[shape])
        config = AutoConfig.for_model(options.pop("model_type"), **options)
        attention = "eager" if config.model_type == "deberta" else "sdpa"
        self.model = random_model(config, device, DTYPE, attention)
        self._device = device

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        ordered = sorted(rows, key=len)
        return [self._batch(ordered[at : at + PADDED_ROWS]) for at in range(0, len(ordered), PADDED_ROWS)]

    def _batch(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = len(rows[-1])
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._device)
        first: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].float().cpu()
        return first

    @torch.inference_mode()
    def one_call_for_each(self, pack: Sequence[PackRow]) -> None:
        """The obvious way to serve prefixes: a call for each adapter, its prefix as past keys and values."""
        for entry in pack:
            adapter: Any = entry.adapter
            layers = [(layer[:1], layer[1:]) for layer in adapter.layers]
            ids = torch.tensor([entry.row.token_ids], device=self._device)
            positions = torch.arange(FIRST_POSITION, FIRST_POSITION + ids.shape[1], device=self._device)[None]
            mask = torch.ones(1, ids.shape[1] + adapter.layers.shape[-2], device=self._device)
            cache = DynamicCache(layers)
            states = self.model(input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache)
            adapter.head(states.last_hidden_state[:, 0]).float().cpu()


def check(backbone: Backbone, pack: Sequence[PackRow]) -> dict[str, float]:
    """Packed against alone, and the kernels against padded attention: largest difference over the largest value."""
    few = [*pack[:6], *pack[-6:]]
    packed = backbone.compute(pack)
    seen = [*packed[:6], *packed[-6:]]
    alone = [backbone.compute([entry])[0] for entry in few]
    padded = Backbone(backbone.family, backbone.spec, backbone.tokenizer, PaddedAttention()).compute(few)
    scale = max(float(np.abs(one).max()) for one in alone)
    against = {
        name: max(float(np.abs(own - other).max()) for own, other in zip(seen, others, strict=True)) / scale
        for name, others in (("alone", alone), ("padded_attention", padded))
    }
    if max(against.values()) > 0.05:
        raise SystemExit(f"packed rows differ from the same rows otherwise computed: {against}")
    return {name: round(value, 5) for name, value in against.items()}


class Bench:
    """One shape on one device."""

    def __init__(self, shape: str, device: str, num_tokens: int, rounds: int, record_passes: bool) -> None:
        self.shape, self.device, self.num_tokens, self.rounds = shape, device, num_tokens, rounds
        self.backbone = random_backbone(shape, device, DTYPE)
        self.stock = StockPadded(shape, device)
        self.backbone.optimise_for_inference(record_passes)

    def packs(
        self, histogram: str, adapters: Sequence[RandomAdapter | None], popularity: str, num_packs: int = 4
    ) -> list[list[PackRow]]:
        """The same rows for every choice of adapters."""
        packs = []
        for number in range(num_packs):
            rows, choices = np.random.default_rng(number), np.random.default_rng([number, len(adapters)])
            lengths = lengths_of(histogram, self.num_tokens, rows)
            chosen = [adapters[index] for index in popular(popularity, len(lengths), len(adapters), choices)]
            packs.append(pack_of(self.backbone.spec, lengths, chosen, rows))
        return packs

    def lines(
        self, histogram: str, prefix_len: int, numbers: Sequence[int], with_peers: bool
    ) -> Iterator[dict[str, Any]]:
        room = MEMORY_SHARE * torch.cuda.get_device_properties(0).total_memory
        fitting = [num for num in numbers if pool_bytes(self.backbone.spec, num, prefix_len, DTYPE) < room]
        adapters = random_adapters(self.backbone.spec, max(fitting), prefix_len, self.device, DTYPE)
        packs = {f"uniform {num}": self.packs(histogram, adapters[:num], "uniform") for num in fitting}
        packs["skewed"] = self.packs(histogram, adapters, "skewed")
        packs["bare"] = self.packs(histogram, [RandomAdapter(None, adapters[0].head)], "uniform")
        largest = f"uniform {fitting[-1]}"
        differences = check(self.backbone, packs[largest][0])
        contestants = {name: Contestant(Flights(self.backbone, own), PASSES) for name, own in packs.items()}
        tokens = [sum(len(entry.row) for entry in pack) for pack in packs[largest]]
        limits = [GemmLimit(self.shape, num, self.device) for num in tokens]
        contestants["gemm limit"] = Contestant(lambda: replay_all(limits * PASSES), PASSES)
        if with_peers:
            rows = [[entry.row.token_ids for entry in pack] for pack in packs[largest]]
            contestants["stock padded"] = Contestant(lambda: [self.stock(pack) for pack in rows])
        done = contest(contestants, self.rounds)
        num_rows = sum(len(pack) for pack in packs[largest])
        yield {
            "setup": {
                "shape": self.shape,
                "dtype": "bfloat16",
                "histogram": histogram,
                "prefix_len": prefix_len,
                "pack_tokens": self.num_tokens,
                "num_adapters": fitting,
                "left_out_for_memory": [num for num in numbers if num not in fitting],
                "rounds": self.rounds,
            },
            "result": {
                "difference": differences,
                "rows_per_s": {name: round(num_rows / done.median(name), 1) for name in contestants},
                "mixed_of_gemm_limit": done.ratio(largest, "gemm limit"),
                "mixed_of_bare": done.ratio(largest, "bare"),
                "most_of_one_adapter": done.ratio(largest, f"uniform {fitting[0]}"),
                "uniform_of_skewed": done.ratio(largest, "skewed"),
                **({"mixed_of_stock_padded": done.ratio(largest, "stock padded")} if with_peers else {}),
            },
        }

    def alone(self, prefix_len: int) -> dict[str, Any]:
        """One row of 32 tokens by itself, and 32 rows of 32 adapters against a call for each."""
        adapters = random_adapters(self.backbone.spec, ALONE_ROWS, prefix_len, self.device, DTYPE)
        random = np.random.default_rng(3)
        one = pack_of(self.backbone.spec, [32], adapters[:1], random)
        lengths = lengths_of("natural", 64 * ALONE_ROWS, random)[:ALONE_ROWS]
        many = pack_of(self.backbone.spec, lengths, adapters[: len(lengths)], random)
        limit = GemmLimit(self.shape, 32, self.device)
        contestants = {
            "one row": Contestant(lambda: self.backbone.compute(one)),
            "its gemms": Contestant(limit.replay),
            "32 rows": Contestant(lambda: self.backbone.compute(many)),
        }
        if self.backbone.spec.architecture != "deberta":  # stock DeBERTa takes no past keys and values
            contestants["a call for each"] = Contestant(lambda: self.stock.one_call_for_each(many))
        done = contest(contestants, 12)
        result = {"one_row_ms": round(done.median("one row") * 1e3, 3)}
        result["one_row_gemms_ms"] = round(done.median("its gemms") * 1e3, 3)
        result["rows_32_ms"] = round(done.median("32 rows") * 1e3, 3)
        if "a call for each" in contestants:
            result["of_a_call_for_each"] = done.ratio("32 rows", "a call for each")
        return {"setup": {"shape": self.shape, "dtype": "bfloat16", "prefix_len": prefix_len}, "result": result}


def popular(popularity: str, num_rows: int, num_adapters: int, random: np.random.Generator) -> Sequence[int]:
    weights = 1.0 / np.arange(1, num_adapters + 1) if popularity == "skewed" else np.ones(num_adapters)
    chosen: list[int] = random.choice(num_adapters, num_rows, p=weights / weights.sum()).tolist()
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--histogram", action="append", help="natural, clinc150, snli or squad2; all by default")
    parser.add_argument("--prefix-len", action="append", type=int, help="16 and 128 by default")
    parser.add_argument("--num-adapters", action="append", type=int, help="1, 100, 1000 and 10000 by default")
    parser.add_argument("--pack-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="no measurement begins later than that")
    parser.add_argument("--call-by-call", action="store_true", help="do not record passes as CUDA graphs")
    parser.add_argument("--results", type=Path, help="a file that lines are appended to, beside standard output")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device on this machine: this benchmark measures GPUs, throughput.py measures CPUs")
    give_up_at = STARTED_AT + arguments.limit_s
    numbers = arguments.num_adapters or NUMBERS
    bench: Bench | None = None
    for shape, prefix_len, histogram in trials(arguments.shape, arguments.prefix_len, arguments.histogram):
        if time.monotonic() > give_up_at:
            print(f"no time left for {shape}, prefix of {prefix_len}, {histogram or 'few rows'}", file=sys.stderr)
            continue
        if bench is None or bench.shape != shape:
            bench = None  # two backbones at once would take the room of adapters
            torch.cuda.empty_cache()
            bench = Bench(shape, "cuda", arguments.pack_tokens, arguments.rounds, not arguments.call_by_call)
        if histogram is None:
            report({"benchmark": "gpu-alone", **bench.alone(prefix_len)}, arguments.results)
            continue
        for line in bench.lines(histogram, prefix_len, numbers if histogram == MAIN else numbers[-2:], True):
            report({"benchmark": "gpu", **line}, arguments.results)
        torch.cuda.empty_cache()


def trials(
    shapes: Sequence[str] | None, prefix_lens: Sequence[int] | None, histograms: Sequence[str] | None
) -> list[tuple[str, int, str | None]]:
    """What is measured, in order: a shape, a prefix length, and whose lengths the rows have, or None for few rows.

    Natural lengths and few rows of every shape come first: time may not suffice for all. DeBERTa is a half deeper and
    a stock model of it takes several times as long, so data sets are only for it where they are asked for.
    """
    chosen, lens = list(shapes or SHAPES), list(prefix_lens or PREFIX_LENS)
    first = [histogram for histogram in histograms or (MAIN,) if histogram == MAIN]
    more = [histogram for histogram in histograms or DATA_SETS if histogram != MAIN]
    main = [(shape, length, which) for shape in chosen for length in lens for which in (*first, None)]
    rest = [
        (shape, length, which)
        for shape in chosen
        if shape != DEEPEST or histograms
        for length in lens
        for which in more
    ]
    return main + rest


def report(line: dict[str, Any], results: Path | None) -> None:
    text = json.dumps({"commit": git_commit(), "device": device_name("cuda"), **line})
    print(text, flush=True)
    print(f"after {time.monotonic() - STARTED_AT:.0f} s:", file=sys.stderr)
    print(line["setup"], line["result"], sep="\n", file=sys.stderr, flush=True)
    if results is not None:
        with results.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
