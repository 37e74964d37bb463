"""One text for many adapters: one request for all of them, against a request for each, over HTTP.

Prints one JSON line; see README.md here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import httpx2
import numpy as np
import typer

from equality import TOLERANCES, check_equal
from latency import predict_message
from open_loop import Call, message_of, run_calls
from options import Backbone, Commit, Rounds, Threads
from server_process import Server, serving
from stand import Stand, stand
from throughput import server_settings
from turns import Contestant, stderr, take_turns
from workload import RandomAdapter, Request

WIDTHS = (1, 10, 100)
WARM_UPS = 2


def main(
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    rounds: Rounds = 15,
    row_len: Annotated[int, typer.Option(help="Tokens of the text.")] = 32,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Time fan-outs and single requests in turn."""
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        adapters = here.adapters(max(WIDTHS), prefix_len)
        (text,) = here.texts(1, row_len)
        with serving(here.folder, adapters[0].folder.parent, here.work, server_settings(here)) as server:
            result = measure(here, server, adapters, text, rounds)
        here.emit("fan-out", {"row_len": row_len, "prefix_len": prefix_len, "rounds": rounds}, result)


def measure(
    here: Stand, server: Server, adapters: Sequence[RandomAdapter], text: str, rounds: int
) -> dict[str, object]:
    requests = here.requests([text] * len(adapters), adapters, "distinct")
    check_fan_out(here, server, requests)
    contestants = {}
    for width in WIDTHS:
        contestants[f"{width} in one"] = sent(server, [fan_out_message(requests[:width])])
        contestants[f"{width} alone"] = sent(server, [predict_message(request) for request in requests[:width]])
    turns = take_turns(contestants, rounds, WARM_UPS)
    ratios = {width: turns.speed(f"{width} in one", f"{width} alone") for width in WIDTHS}
    for width, ratio in ratios.items():
        stderr.print(f"{width} adapters, one request / {width} requests at once: {ratio} × as fast")
    return {
        "rows_per_s": {name: asdict(turns.per_s(name, int(name.split()[0]))) for name in contestants},
        "of_single_requests": {str(width): asdict(ratio) for width, ratio in ratios.items()},
    }


def sent(server: Server, messages: Sequence[bytes]) -> Contestant:
    """All at once; until the last answer."""

    def run(_: int) -> float:
        started_at = time.perf_counter()
        answers = run_calls(server.port, [Call(0.0, "predict", message) for message in messages])
        taken = time.perf_counter() - started_at
        if any(answer.status >= 400 for answer in answers):
            raise SystemExit(f"a request failed: {answers}")
        return taken

    return run


def fan_out_body(requests: Sequence[Request], **parameters: Any) -> dict[str, Any]:
    names = [request.adapter.name for request in requests]
    return {"adapters": names, "inputs": requests[0].text, "parameters": parameters}


def fan_out_message(requests: Sequence[Request]) -> bytes:
    return message_of("POST", "/v1/predict", json.dumps(fan_out_body(requests)).encode())


def check_fan_out(here: Stand, server: Server, requests: Sequence[Request]) -> None:
    """The answers of one fan-out against those of single requests."""
    alone = [server.predict(request.adapter.name, request.text) for request in requests]
    response = httpx2.post(f"{server.base_url}/v1/predict", json=fan_out_body(requests, logits=True), timeout=60)
    response.raise_for_status()
    results = {ref.partition("@")[0]: result for ref, result in response.json()["results"].items()}
    together = [results[request.adapter.name]["outputs"][0]["logits"] for request in requests]
    assert here.computed_in in TOLERANCES
    check_equal(
        "fan-out and single requests", np.array(together), np.array(alone), here.computed_in, here.backbone.device
    )


if __name__ == "__main__":
    typer.run(main)
