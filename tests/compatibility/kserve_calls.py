"""What KServe's own REST client gets from a server, printed as JSON. Runs in a virtual environment of its own, where
KServe is; knows nothing of this project.

    python kserve_calls.py BASE_URL KEY
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

TEXTS = ["how much money do i have in my checking account", "play the next song"]


async def main(base_url: str, key: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        return {
            "live": await client.is_server_live(base_url),
            "ready": await client.is_server_ready(base_url),
            "model_ready": await client.is_model_ready(base_url, "intent", headers=dict(headers)),
            "unknown_ready": await client.is_model_ready(base_url, "nobody", headers=dict(headers)),
            "json": _shown(await _infer(client, base_url, headers, binary=False)),
            "binary": _shown(await _infer(client, base_url, headers, binary=True)),
            "refused": await _refusal(client, base_url, headers, "nobody"),
            "keyless": await _refusal(client, base_url, {}, "intent"),
        }


async def _infer(
    client: InferenceRESTClient, base_url: str, headers: dict[str, str], *, binary: bool, model: str = "intent"
) -> InferResponse:
    text = InferInput("text", [len(TEXTS)], "BYTES")
    text.set_data_from_numpy(np.array(TEXTS, dtype=np.object_), binary_data=binary)
    wanted = [RequestedOutput(name, {"binary_data": binary}) for name in ("label", "score")]
    request = InferRequest(model, [text], request_id="7", request_outputs=wanted)
    return await client.infer(base_url, request, model_name=model, headers=dict(headers))


def _shown(response: InferResponse) -> dict[str, Any]:
    outputs: dict[str, InferOutput] = {output.name: output for output in response.outputs}
    labels = [label if isinstance(label, str) else label.decode() for label in outputs["label"].as_numpy()]
    scores = outputs["score"].as_numpy().tolist()
    return {"id": response.id, "model": response.model_name, "labels": labels, "scores": scores}


async def _refusal(client: InferenceRESTClient, base_url: str, headers: dict[str, str], model: str) -> dict[str, Any]:
    try:
        await _infer(client, base_url, headers, binary=False, model=model)
    except httpx.HTTPStatusError as error:
        return {"status": error.response.status_code, "message": str(error)}
    return {"status": 200, "message": ""}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
