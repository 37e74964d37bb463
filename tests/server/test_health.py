"""Health, metrics and the API's own description."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import Any

import pytest


async def test_live_follows_the_engines_heartbeat(server: Any) -> None:
    assert (await server.client.get("/health/live")).json() == {"live": True}
    last = time.monotonic() - 11
    server.engine.heartbeat = lambda: last
    response = await server.client.get("/health/live")
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    told = re.search(r"is (\d+\.\d) s old, allowed are 10 s", response.json()["detail"])
    assert told is not None
    assert float(told[1]) >= 11


async def test_ready_until_draining(server: Any, bundles: Any) -> None:
    await server.upload(bundles("intent"))
    assert (await server.client.get("/health/ready")).json() == {"ready": True, "registry": True}
    server.app.state.services.phase.drain()
    response = await server.client.get("/health/ready")
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert "retry-after" in response.headers
    assert (await server.predict("intent", "hello")).status_code == 200
    assert (await server.client.get("/health/live")).status_code == 200


async def test_ready_without_a_database_which_is_told(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(server.registry), "is_away", True)
    response = await server.client.get("/health/ready")
    assert (response.status_code, response.json()) == (200, {"ready": True, "registry": False})


async def test_metrics_count_by_route_template(server: Any, bundles: Any) -> None:
    await server.upload(bundles("intent"))
    for name in ("intent", "nobody", "nobody-else"):
        await server.predict(name, "hello")
    await server.client.get("/some/path/that/is/not/there")
    text = (await server.client.get("/metrics")).text
    route = "/v1/{ref}/predict"
    assert f'prefixrack_http_requests_total{{method="POST",route="{route}",status="200"}} 1.0' in text
    assert f'prefixrack_http_requests_total{{method="POST",route="{route}",status="404"}} 2.0' in text
    assert 'route="none",status="404"} 1.0' in text
    assert "nobody" not in text
    assert "not/there" not in text
    for name in ("queue_rows", "resident_bytes", "packs_total", "rows_total", "loads_total", "evictions_total"):
        assert f"\nprefixrack_{name} " in text


async def test_openapi_documents_every_route_and_resolves(server: Any) -> None:
    document = (await server.client.get("/openapi.json")).json()
    paths = document["paths"]
    bodies = paths["/v1/{ref}/predict"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"application/json", "application/jsonl"}
    assert "/v1/predict" in paths
    assert "multipart/form-data" in paths["/admin/v1/adapters/{name}/versions"]["post"]["requestBody"]["content"]
    schemas = document["components"]["schemas"]
    for ref in _refs(document):
        assert ref.removeprefix("#/components/schemas/") in schemas
    answer = paths["/v1/{ref}/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/PredictResponse"}


def _refs(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(_refs, node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
    return own.union(*map(_refs, node.values()))


async def test_cors_by_setting(serving: Any) -> None:
    origin = {"Origin": "https://app.example"}
    async with serving(http={"auth": "none", "cors_origins": ["https://app.example"]}) as server:
        response = await server.client.get("/health/live", headers=origin)
        assert response.headers["access-control-allow-origin"] == "https://app.example"
    async with serving() as server:
        assert "access-control-allow-origin" not in (await server.client.get("/health/live", headers=origin)).headers


@pytest.mark.parametrize("module", ["app", "config", "commands", "supervisor", "front_end", "engine_client", "tether"])
def test_the_front_end_loads_no_torch(module: str) -> None:
    code = f"import sys, prefixrack_server.{module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
