"""Bundles from where they lie: what is allowed is fetched, and nothing leads where the server should not go."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import obstore
import pytest

from fake_hub import FakeHub, running_hub
from object_store import make_bucket, object_store
from prefixrack.errors import BundleTooLarge, MalformedBundle, SourceRefused, SourceUnavailable
from prefixrack_adapters.backbone import Backbone
from prefixrack_server.config import SourcesConfig
from prefixrack_server.sources import Sources
from prefixrack_server.sources.guard import Guard, GuardedTransport
from prefixrack_server.sources.hub import HubPath
from tiny import write_backbone

LOOPBACK = "127.0.0.1"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


def files_of(bundle: Any) -> dict[str, bytes]:
    names = ("adapter.json", "adapter.safetensors", "README.md")
    return {name: (bundle.folder / name).read_bytes() for name in names}


async def push(server: Any, source: Any, name: str = "intent") -> httpx2.Response:
    url = f"/admin/v1/adapters/{name}/versions"
    response: httpx2.Response = await server.client.post(url, json={"source": source})
    return response


async def test_a_bundle_from_the_hub(serving: Any, hub: FakeHub, bundles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    bundle = bundles("intent")
    hub.add("team/intent", {f"v2/{name}": content for name, content in files_of(bundle).items()}, revision="tag/1")
    settings = {"allowed": ["hf://team"], "private_hosts": [LOOPBACK], "hub_endpoint": hub.endpoint}
    async with serving(sources=settings) as server:
        response = await push(server, "hf://team/intent@tag/v2")
        assert (response.status_code, response.json()["code"]) == (422, "malformed_bundle")  # another revision
        hub.add("team/intent", files_of(bundle), revision="v1")
        response = await push(server, "hf://team/intent@v1")
        assert response.status_code == 201, response.text
        assert response.json()["digest"] == bundle.digest
        assert (await push(server, "hf://team/intent@v1")).status_code == 200
        assert (await server.predict("intent", "hello")).status_code == 200
        assert not list((server.config.registry.spool_dir).rglob("*"))
    assert {authorization for _, authorization in hub.asked} == {"Bearer secret"}


async def test_bundles_from_an_object_store(serving: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundles("intent")
    with object_store() as endpoint:
        bucket = make_bucket(endpoint)
        for variable, value in bucket.environment.items():
            monkeypatch.setenv(variable, value)
        for name, content in files_of(bundle).items():
            obstore.put(bucket.store, f"intent/{name}", content)
        async with serving(sources={"allowed": [bucket.url]}) as server:
            response = await push(server, f"{bucket.url}/intent")
            assert response.status_code == 201, response.text
            assert response.json()["digest"] == bundle.digest
            missing = await push(server, f"{bucket.url}/nothing")
            assert (missing.status_code, missing.json()["code"]) == (422, "malformed_bundle")
            assert "neither adapter.json nor a PEFT adapter" in missing.json()["detail"]


async def test_bundles_from_a_folder_and_links_out_of_it(serving: Any, bundles: Any, tmp_path: Path) -> None:
    bundle = bundles("intent")
    allowed = tmp_path / "bundles"
    (allowed / "out").symlink_to(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    async with serving(sources={"allowed": [f"file://{allowed}"]}) as server:
        assert (await push(server, f"file://{bundle.folder}")).status_code == 201
        for refused in ("out/elsewhere", "../elsewhere", "out"):
            response = await push(server, f"file://{allowed}/{refused}")
            assert (response.status_code, response.json()["code"]) == (403, "source_refused"), refused
        response = await push(server, f"file://{allowed}/nothing")
        assert (response.status_code, response.json()["code"]) == (503, "source_unavailable")


@pytest.mark.parametrize(
    "source",
    [
        "hf://other/intent",
        "hf://team-two/intent",
        "hf://team/../other/intent",
        "file:///etc",
        "https://127.0.0.1/bundle",
        "ftp://team/intent",
        "hf://team/intent?x=1",
        "hf://team/intent#x",
        "hf:\\\\team\\intent",
    ],
)
async def test_what_is_not_allowed(serving: Any, source: str) -> None:
    async with serving(sources={"allowed": ["hf://team"]}) as server:
        response = await push(server, source)
        assert (response.status_code, response.json()["code"]) == (403, "source_refused")
        assert await server.names() == []


async def test_nothing_is_allowed_by_default(server: Any, bundles: Any) -> None:
    response = await push(server, f"file://{bundles('intent').folder}")
    assert (response.status_code, response.json()["code"]) == (403, "source_refused")
    assert "sources.allowed has: none" in response.json()["detail"]
    assert (await push(server, 7)).status_code == 422


async def test_first_adapters_by_uri(serving: Any, hub: FakeHub, bundles: Any) -> None:
    bundle = bundles("intent")
    hub.add("team/intent", files_of(bundle))
    settings = {
        "adapters": ["hf://team/gone", "hf://team/intent", f"file://{bundles('ner').folder}"],
        "private_hosts": [LOOPBACK],
        "hub_endpoint": hub.endpoint,
    }
    async with serving(sources=settings) as server:
        assert await server.names() == [("intent", 1, 1), ("ner", 1, 1)]


def sources_of(hub: FakeHub, folder: Path, backbone: Path | str = "none", **settings: Any) -> Sources:
    given = {"allowed": ["hf://team"], "private_hosts": [LOOPBACK], "hub_endpoint": hub.endpoint} | settings
    return Sources(SourcesConfig.model_validate(given), folder, 10_000_000, backbone)


async def test_a_hub_with_a_private_address_is_refused_unless_it_is_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("team/intent", {"adapter.json": b"{}"})
    with pytest.raises(SourceRefused, match="over http"):
        await sources_of(hub, tmp_path, private_hosts=[]).fetch("hf://team/intent", tmp_path)
    assert hub.asked == []


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.7/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://localhost/x",
        "file:///etc/passwd",
    ],
)
async def test_a_redirect_to_a_private_address_is_not_followed(hub: FakeHub, tmp_path: Path, location: str) -> None:
    hub.redirects["/team/intent/resolve/main/adapter.json"] = location
    with pytest.raises((SourceRefused, SourceUnavailable)):
        await sources_of(hub, tmp_path).fetch("hf://team/intent", tmp_path)
    assert not (tmp_path / "adapter.json").exists()
    assert len(hub.asked) == 1


async def test_redirects_without_end(hub: FakeHub, tmp_path: Path) -> None:
    path = "/team/intent/resolve/main/adapter.json"
    hub.redirects[path] = path
    with pytest.raises(SourceRefused, match="redirects"):
        await sources_of(hub, tmp_path).fetch("hf://team/intent", tmp_path)


async def test_a_token_goes_to_the_hub_alone(
    hub: FakeHub, bundles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    bundle = bundles("intent")
    with running_hub() as store:
        other = store.endpoint.replace(LOOPBACK, "localhost")
        for name, content in files_of(bundle).items():
            store.files[f"/{name}"] = content
            hub.redirects[f"/team/intent/resolve/main/{name}"] = f"{other}/{name}"
        folder = await sources_of(hub, tmp_path, private_hosts=[LOOPBACK, "localhost"]).fetch(
            "hf://team/intent", tmp_path
        )
        assert (folder / "adapter.json").read_bytes() == bundle.manifest_bytes
        assert {authorization for _, authorization in store.asked} == {None}
    assert {authorization for _, authorization in hub.asked} == {"Bearer secret"}


async def test_sizes_and_refusals(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("team/big", {"adapter.json": bytes(11_000_000)})
    with pytest.raises(BundleTooLarge):
        await sources_of(hub, tmp_path).fetch("hf://team/big", tmp_path)
    hub.refused.add("/team/gated/resolve/main/adapter.json")
    with pytest.raises(SourceRefused, match="private or gated"):
        await sources_of(hub, tmp_path).fetch("hf://team/gated", tmp_path)


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("hf://a/b", "http://h/a/b/resolve/main/f"),
        ("hf://a/b@v1", "http://h/a/b/resolve/v1/f"),
        ("hf://a/b@v1/sub/folder/", "http://h/a/b/resolve/v1/sub/folder/f"),
    ],
)
def test_paths_on_the_hub(uri: str, url: str) -> None:
    assert HubPath.parse(uri).url("http://h/", "f") == url


@pytest.mark.parametrize(
    "uri",
    [
        "hf://a",
        "hf://",
        "hf://a//b",
        "hf://a/../b",
        "hf://a/..@v1",
        "hf://a/b%2F..%2F..%2Fc%2Fd",
        "hf://a/%2e%2e",
        "hf://a%2f..%2fc/d",
    ],
)
def test_what_is_no_path_on_the_hub(uri: str) -> None:
    with pytest.raises(SourceRefused):
        HubPath.parse(uri)


def guard_that_sees(*addresses: str) -> Guard:
    def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return Guard(resolve=resolve)


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fc00::1",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "fec0::1",
        "192.0.0.192",
        "168.63.129.16",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    for seen in ([address], ["8.8.8.8", address]):
        with pytest.raises(SourceRefused, match="not public"):
            guard_that_sees(*seen).address_of(httpx2.URL("https://example.org/x"))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::6810:1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    """The third is how a network with IPv6 alone reaches the first."""
    assert guard_that_sees(address).address_of(httpx2.URL("https://example.org/x")) == address


def test_the_connection_goes_to_the_address_that_was_looked_at() -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200)

    transport = GuardedTransport(guard_that_sees("8.8.8.8"), httpx2.MockTransport(answer))
    with httpx2.Client(transport=transport) as http:
        http.get("https://example.org/x")
    assert (seen[0].url.host, seen[0].headers["host"]) == ("8.8.8.8", "example.org")
    assert seen[0].extensions["sni_hostname"] == "example.org"


async def test_a_peft_adapter_is_converted(hub: FakeHub, tmp_path: Path) -> None:
    from peft import PrefixTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    folder = write_backbone(tmp_path / "backbone")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own: it calls what transformers is going to drop
        stock = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
        model = get_peft_model(stock, PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=4))
        model.save_pretrained(str(tmp_path / "peft"))
    names = ("adapter_config.json", "adapter_model.safetensors")
    hub.add("team/peft", {name: (tmp_path / "peft" / name).read_bytes() for name in names})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(MalformedBundle, match="give --labels with 3 names"):
        await sources_of(hub, tmp_path, folder).fetch("hf://team/peft", scratch)
    shutil.rmtree(scratch)
    scratch.mkdir()
    labels = ("no", "maybe", "yes")
    bundle = await sources_of(hub, tmp_path, folder).fetch("hf://team/peft", scratch, labels=labels)
    assert json.loads((bundle / "adapter.json").read_text())["labels"] == list(labels)
    assert (bundle / "adapter.json").is_file()
    assert (bundle / "adapter.safetensors").is_file()
    assert Backbone.load(folder).spec.fingerprint in (bundle / "adapter.json").read_text()
    hub.add("team/peft", {"adapter_config.json": b"{}"}, revision="broken")
    hub.files["/team/peft/resolve/broken/adapter_model.safetensors"] = b"broken"
    (tmp_path / "again").mkdir()
    with pytest.raises(MalformedBundle, match="cannot be converted"):
        await sources_of(hub, tmp_path, folder).fetch("hf://team/peft@broken", tmp_path / "again")
