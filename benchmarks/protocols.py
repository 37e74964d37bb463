"""What a request costs in another protocol: CPU time of the server's HTTP part, against the native route's.

Prints one JSON line; see README.md here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx2
import numpy as np
import typer

from equality import check_equal
from options import Backbone, Commit, Rounds, Threads
from prefixrack_adapters.manifest import Manifest
from server_process import Server, serving
from stand import Stand, stand
from throughput import server_settings
from turns import Contestant, stderr, take_turns
from workload import RandomAdapter, store_adapter

WARM_UPS = 2
EMBEDDER = "sentences"


class Sent(NamedTuple):
    """One request, and which native one answers the same."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    native: str


def main(
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    rounds: Rounds = 10,
    requests: Annotated[int, typer.Option(help="Requests a turn, one after another.")] = 300,
    row_len: Annotated[int, typer.Option(help="Tokens of the text.")] = 32,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Ask the same in each protocol in turn, over one connection."""
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        (adapter,) = here.adapters(1, prefix_len)
        folder = adapter.folder.parent
        write_embedder(folder / EMBEDDER, adapter.manifest)
        (text,) = here.texts(1, row_len)
        with serving(here.folder, folder, here.work, server_settings(here)) as server:
            result = measure(here, server, requests_of(adapter, text), rounds, requests)
        setup = {"row_len": row_len, "prefix_len": prefix_len, "rounds": rounds, "requests": requests}
        here.emit("protocols", setup, result)


def write_embedder(folder: Path, like: Manifest) -> RandomAdapter:
    """The mean of the backbone's states, without prefix and head: what OpenAI's route is asked."""
    document = like.model_dump(mode="json", include={"backbone", "provenance"}) | {
        "name": folder.name,
        "task": "text-embedding",
        "prefix": like.prefix.model_dump(mode="json") | {"prefix_len": 0},
        "head": {"gather": "mean_tokens", "layers": []},
        "tokenization": {"max_len": like.tokenization.max_len},
        "decoding": {"normalize": True},
    }
    return store_adapter(folder, Manifest.model_validate(document), {})


def requests_of(adapter: RandomAdapter, text: str) -> dict[str, Sent]:
    """By name: the native ones first."""
    name, as_json = adapter.name, {"Content-Type": "application/json"}
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES"}
    packed = len(text.encode()).to_bytes(4, "little") + text.encode()
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(packed)}}]}).encode()
    bodies: dict[str, tuple[str, Any, str]] = {
        "native": (f"v1/{name}/predict", {"inputs": text}, "native"),
        "native embedding": (f"v1/{EMBEDDER}/predict", {"inputs": text}, "native embedding"),
        "hugging face": (f"hf/{name}", {"inputs": text, "parameters": {}}, "native"),
        "open inference": (f"v2/models/{name}/infer", {"inputs": [tensor | {"data": [text]}]}, "native"),
        "openai": ("v1/embeddings", {"model": EMBEDDER, "input": text}, "native embedding"),
    }
    sent = {kind: Sent(path, json.dumps(body).encode(), as_json, of) for kind, (path, body, of) in bodies.items()}
    binary = {"Inference-Header-Content-Length": str(len(head))}
    return sent | {"open inference, binary": Sent(f"v2/models/{name}/infer", head + packed, binary, "native")}


def measure(here: Stand, server: Server, sent: Mapping[str, Sent], rounds: int, num_requests: int) -> dict[str, object]:
    with httpx2.Client(base_url=server.base_url, timeout=60) as http:
        check_answers(here, http, sent)
        turns = take_turns(
            {kind: cpu_time(server, http, one, num_requests) for kind, one in sent.items()}, rounds, WARM_UPS
        )
    ratios = {kind: turns.speed(one.native, kind) for kind, one in sent.items() if one.native != kind}
    for kind, ratio in ratios.items():
        stderr.print(f"{kind}: {ratio} × the CPU time of the native request")
    return {
        "requests_per_cpu_s": {kind: asdict(turns.per_s(kind, num_requests)) for kind in sent},
        "cpu_time_of_native": {kind: asdict(ratio) for kind, ratio in ratios.items()},
    }


def cpu_time(server: Server, http: httpx2.Client, one: Sent, num_requests: int) -> Contestant:
    """CPU seconds of the HTTP part for so many requests, one after another."""

    def run(_: int) -> float:
        before = server.http_cpu_s()
        for _ in range(num_requests):
            ask(http, one)
        return server.http_cpu_s() - before

    return run


def ask(http: httpx2.Client, one: Sent) -> Any:
    return http.post(one.path, content=one.body, headers=dict(one.headers)).raise_for_status().json()


def check_answers(here: Stand, http: httpx2.Client, sent: Mapping[str, Sent]) -> None:
    """Every protocol's numbers are those of the native route."""
    answers = {kind: ask(http, one) for kind, one in sent.items()}
    expected = by_label(answers["native"]["outputs"][0]["scores"])
    labels = sorted(expected)
    computed = here.computed_in, here.backbone.device
    check_equal(
        "hugging face", vector(by_label(answers["hugging face"][0]), labels), vector(expected, labels), *computed
    )
    for kind in ("open inference", "open inference, binary"):
        tensors = {tensor["name"]: tensor["data"] for tensor in answers[kind]["outputs"]}
        check_equal(kind, np.array(tensors["score"]), np.array([max(expected.values())]), *computed)
    embedding = answers["native embedding"]["outputs"][0]["embedding"]
    check_equal("openai", np.array(answers["openai"]["data"][0]["embedding"]), np.array(embedding), *computed)


def by_label(scores: Any) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in scores}


def vector(scores: Mapping[str, float], labels: list[str]) -> Any:
    return np.array([scores[label] for label in labels])


if __name__ == "__main__":
    typer.run(main)
