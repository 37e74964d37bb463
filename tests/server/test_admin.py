"""Administration over HTTP with the real registry: uploads good and bad, versions, aliases, residency, catalogue."""

from __future__ import annotations

import errno
import io
import json
import pickle
import shutil
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from prefixrack.types import AdapterDetail, AdapterPage, AliasInfo, ResidencyInfo, VersionDetail, VersionInfo
from prefixrack_adapters.bundle import bundle_bytes
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.messages import RowFailure

ADMIN = "/admin/v1/adapters/intent"
TAR = {"Content-Type": "application/x-tar"}
PICKLE = pickle.dumps({"prefix": list(range(100))})


@pytest.fixture
async def ready(server: Any, bundles: Any) -> Any:
    """A server on which `intent` has one version."""
    assert (await server.upload(bundles("intent"))).status_code == 201
    return server


async def assert_refused(server: Any, response: Any, status: int, code: str) -> None:
    """The refusal has its code and a message, the registry its old state, and the server goes on."""
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert len(response.json()["detail"]) > 20
    assert await server.names() == [("intent", 1, 1)]
    assert (await server.predict("intent", "hello")).status_code == 200
    assert list(server.config.registry.spool_dir.iterdir()) == []


async def test_upload_makes_a_version(server: Any, bundles: Any) -> None:
    bundle = bundles("intent")
    response = await server.upload(bundle)
    assert response.status_code == 201, response.text
    info = VersionInfo.model_validate(response.json())
    assert (info.name, info.version, info.digest, info.is_new) == ("intent", 1, bundle.digest, True)
    assert info.aliases == ["latest"]
    assert info.size_bytes == len(bundle.manifest_bytes) + len(bundle.tensors_bytes)
    probe = server.engine.submitted[0][0]
    assert probe.priority > 100
    assert probe.bundle.digest == bundle.digest


async def test_the_same_digest_again_is_the_existing_version(ready: Any, bundles: Any) -> None:
    again = await ready.upload(bundles("intent"))
    assert (again.status_code, again.json()["version"], again.json()["is_new"]) == (200, 1, False)
    as_tar = await ready.client.post(f"{ADMIN}/versions", content=bundle_bytes(bundles("intent").folder), headers=TAR)
    assert (as_tar.status_code, as_tar.json()["version"]) == (200, 1)
    assert await ready.names() == [("intent", 1, 1)]


async def test_idempotency_keys(ready: Any, bundles: Any) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = await ready.upload(bundles("intent", seed=1), **headers)
    assert (first.status_code, first.json()["version"]) == (201, 2)
    again = await ready.upload(bundles("intent", seed=1), **headers)
    assert (again.status_code, again.json()["version"]) == (200, 2)
    other = await ready.upload(bundles("intent", seed=2), **headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    for key in ("x" * 256, ""):
        wrong = await ready.upload(bundles("intent", seed=3), **{"Idempotency-Key": key})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")


async def test_download_gives_back_what_was_uploaded(ready: Any, bundles: Any) -> None:
    response = await ready.client.get(f"{ADMIN}/versions/1/bundle")
    assert response.status_code == 200
    assert response.content == bundle_bytes(bundles("intent").folder)
    assert response.headers["content-length"] == str(len(response.content))
    assert bundles("intent").digest in response.headers["etag"]


async def test_a_version_is_described_without_its_tensors(ready: Any, bundles: Any) -> None:
    """What it cannot answer from the database it does not open: the files may be gone."""
    bundle = bundles("intent", seed=1, description="Of the spring.")
    files = bundle.files()
    del files["card"]
    assert (await ready.client.post(f"{ADMIN}/versions", files=files)).status_code == 201
    shutil.rmtree(ready.config.registry.blobs_dir)
    response = await ready.client.get(f"{ADMIN}/versions/2")
    detail = VersionDetail.model_validate(response.json())
    assert (detail.digest, detail.aliases, detail.is_new) == (bundle.digest, ["latest"], False)
    assert detail.card is None
    assert Manifest.model_validate(detail.manifest) == Manifest.model_validate_json(bundle.manifest_bytes)
    assert VersionDetail.model_validate((await ready.client.get(f"{ADMIN}/versions/1")).json()).card == "# intent\n"
    missing = await ready.client.get(f"{ADMIN}/versions/3")
    assert (missing.status_code, missing.json()["code"]) == (404, "version_not_found")


def broken_tensors(good: bytes, tensors: dict[str, Any]) -> dict[str, tuple[bytes, str]]:
    """What can be wrong with the tensors file, and the code of it."""
    length = struct.unpack("<Q", good[:8])[0]
    nan = {key: value.copy() for key, value in tensors.items()}
    nan["prefix"][0, 0, 0, 0, 0] = np.nan
    infinite = {key: value.copy() for key, value in tensors.items()}
    infinite["head.0.weight"][0, 0] = -np.inf
    return {
        "truncated": (good[:-10], "malformed_bundle"),
        "only a header": (good[: 8 + length], "malformed_bundle"),
        "empty": (b"", "malformed_bundle"),
        "short": (b"abc", "malformed_bundle"),
        "header length too long": (struct.pack("<Q", 1 << 60) + good[8:], "malformed_bundle"),
        "header length too short": (struct.pack("<Q", 4) + good[8:], "malformed_bundle"),
        "pickle": (PICKLE, "malformed_bundle"),
        "zip": (b"PK\x03\x04" + bytes(100), "malformed_bundle"),
        "NaN": (save(nan), "nonfinite_tensor"),
        "infinity": (save(infinite), "nonfinite_tensor"),
        "wrong shape": (save(tensors | {"prefix": tensors["prefix"][:, :, :2].copy()}), "tensor_mismatch"),
        "wrong dtype": (save(tensors | {"prefix": tensors["prefix"].astype(np.float64)}), "tensor_mismatch"),
        "integers": (save(tensors | {"prefix": tensors["prefix"].astype(np.int32)}), "tensor_mismatch"),
        "missing": (save({"prefix": tensors["prefix"]}), "tensor_mismatch"),
        "extra": (save(tensors | {"extra": np.zeros(3, np.float32)}), "tensor_mismatch"),
    }


async def test_broken_tensors(ready: Any, bundles: Any) -> None:
    bundle = bundles("intent", seed=1)
    for what, (content, code) in broken_tensors(bundle.tensors_bytes, bundle.tensors).items():
        response = await ready.client.post(f"{ADMIN}/versions", files=bundle.files(tensors=content))
        assert response.status_code == 422, what
        await assert_refused(ready, response, 422, code)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"backbone": {"model_id": "other", "architecture": "bert", "fingerprint": "0" * 64}}, "backbone_mismatch"),
        ({"labels": ["good", "bad", "third"]}, "label_mismatch"),
        ({"labels": ["good", "good"]}, "label_mismatch"),
        ({"task": "mind-reading"}, "invalid_manifest"),
        ({"schema_version": 99}, "invalid_manifest"),
        ({"nonsense": 1}, "invalid_manifest"),
        ({"name": "../etc"}, "invalid_manifest"),
        ({"prefix": {"prefix_len": 3, "num_layers": 9, "num_kv_heads": 2, "head_dim": 4}}, "tensor_mismatch"),
        ({"prefix": {"prefix_len": 600, "num_layers": 2, "num_kv_heads": 2, "head_dim": 4}}, "tensor_mismatch"),
        ({"example": {"question": "no text"}}, "probe_failed"),
    ],
)
async def test_broken_manifests(ready: Any, bundles: Any, change: dict[str, Any], code: str) -> None:
    bundle = bundles("intent", seed=1)
    manifest = json.dumps(bundle.manifest | change).encode()
    response = await ready.client.post(f"{ADMIN}/versions", files=bundle.files(manifest=manifest))
    await assert_refused(ready, response, 422, code)


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b"\xff\xff", b"[" * 50_000])
async def test_manifests_that_are_no_json_object(ready: Any, bundles: Any, manifest: bytes) -> None:
    response = await ready.client.post(f"{ADMIN}/versions", files=bundles("intent", seed=1).files(manifest=manifest))
    await assert_refused(ready, response, 422, "invalid_manifest")


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def unsafe_archives(manifest: bytes, tensors: bytes) -> dict[str, tuple[bytes, int, str]]:
    whole = tar_of(member("adapter.json", manifest), member("adapter.safetensors", tensors))
    huge = tarfile.TarInfo("adapter.safetensors")
    huge.size = 10 * 1024**3
    return {
        "climbs out": (tar_of(member("../adapter.json", manifest)), 422, "unsafe_archive"),
        "absolute": (tar_of(member("/etc/adapter.json", manifest)), 422, "unsafe_archive"),
        "symlink": (tar_of(member("adapter.json", kind=tarfile.SYMTYPE, link="/etc/passwd")), 422, "unsafe_archive"),
        "hard link": (tar_of(member("adapter.json", kind=tarfile.LNKTYPE, link="x")), 422, "unsafe_archive"),
        "device": (tar_of(member("adapter.json", kind=tarfile.CHRTYPE)), 422, "unsafe_archive"),
        "twice": (tar_of(member("adapter.json", manifest), member("adapter.json", manifest)), 422, "unsafe_archive"),
        "ten gigabytes": (huge.tobuf() + bytes(1024), 413, "bundle_too_large"),
        "stranger": (tar_of(member("evil.py", b"import os")), 422, "malformed_bundle"),
        "no tensors": (tar_of(member("adapter.json", manifest)), 422, "malformed_bundle"),
        "cut off": (whole[:1500], 422, "malformed_bundle"),
        "zip": (b"PK\x03\x04" + bytes(600), 422, "malformed_bundle"),
        "empty": (b"", 422, "malformed_bundle"),
    }


async def test_unsafe_archives(ready: Any, bundles: Any) -> None:
    bundle = bundles("intent", seed=1)
    for content, status, code in unsafe_archives(bundle.manifest_bytes, bundle.tensors_bytes).values():
        response = await ready.client.post(f"{ADMIN}/versions", content=content, headers=TAR)
        await assert_refused(ready, response, status, code)


async def test_uploads_of_another_media_type(ready: Any) -> None:
    for content_type in ("text/plain", "application/zip", ""):
        headers = {"Content-Type": content_type}
        response = await ready.client.post(f"{ADMIN}/versions", content=b"{}", headers=headers)
        await assert_refused(ready, response, 415, "unsupported_media_type")


async def test_a_bundle_over_the_size_limit(serving: Any, bundles: Any) -> None:
    async with serving(limits={"max_bundle_bytes": 300}) as server:
        response = await server.upload(bundles("intent"))
        assert (response.status_code, response.json()["code"]) == (413, "bundle_too_large")
        assert "300" in response.json()["detail"]


@pytest.mark.parametrize("code", ["nonfinite_output", "internal_error"])
async def test_an_adapter_that_fails_its_probe(ready: Any, bundles: Any, code: str) -> None:
    bundle = bundles("intent", seed=1)
    ready.engine.failures[bundle.digest] = RowFailure(code, "the logits hold NaN")
    await assert_refused(ready, await ready.upload(bundle), 422, "probe_failed")


async def test_an_adapter_whose_output_cannot_be_made(
    ready: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("three labels for two logits")

    bundle = bundles("ner", "token-classification")
    tokeniser = ready.app.state.services.predictor.tokeniser
    task = tokeniser.task(bundle.digest, Manifest.model_validate(bundle.manifest))
    monkeypatch.setattr(task, "finish", broken)
    response = await ready.upload(bundle)
    assert "three labels" in response.json()["detail"]
    await assert_refused(ready, response, 422, "probe_failed")


async def test_a_probe_that_is_not_computed_in_time(ready: Any, bundles: Any) -> None:
    bundle = bundles("intent", seed=1)
    ready.engine.failures[bundle.digest] = RowFailure("deadline_exceeded", "raise X-Request-Timeout-Ms")
    response = await ready.upload(bundle)
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    assert "upload it again" in response.json()["detail"]


async def test_a_full_disk_while_spooling(ready: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = ready.app.state.services.uploads._spool
    monkeypatch.setattr(spool, "open_file", full)
    response = await ready.upload(bundles("intent", seed=1))
    monkeypatch.undo()
    await assert_refused(ready, response, 507, "disk_full")
    assert (await ready.upload(bundles("intent", seed=1))).status_code == 201


async def test_a_full_disk_while_storing(ready: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prefixrack_server.registry.blobs.obstore.put", full)
    response = await ready.upload(bundles("intent", seed=1))
    monkeypatch.undo()
    await assert_refused(ready, response, 507, "disk_full")


@pytest.mark.parametrize("name", ["Intent", "admin", "a b", "%2e%2e", "x" * 64, "latest@1"])
async def test_names_that_are_not_allowed(ready: Any, bundles: Any, name: str) -> None:
    response = await ready.upload(bundles("intent", seed=1), name=name)
    await assert_refused(ready, response, 400, "invalid_name")


@pytest.mark.parametrize("name", ["a/b", "a%2Fb", "..%2Fintent", "%2e%2e/intent"])
async def test_a_slash_in_a_name_leads_to_no_upload(ready: Any, bundles: Any, name: str) -> None:
    response = await ready.upload(bundles("intent", seed=1), name=name)
    await assert_refused(ready, response, 404, "route_not_found")


async def test_versions_are_listed_and_deleted(ready: Any, bundles: Any) -> None:
    await ready.upload(bundles("intent", seed=1))
    page = (await ready.client.get(f"{ADMIN}/versions", params={"limit": 1})).json()
    assert ([entry["version"] for entry in page["data"]], page["next_cursor"]) == ([2], "2")
    rest = (await ready.client.get(f"{ADMIN}/versions", params={"cursor": "2"})).json()
    assert ([entry["version"] for entry in rest["data"]], rest["next_cursor"]) == ([1], None)
    assert (await ready.client.delete(f"{ADMIN}/versions/2")).status_code == 204
    assert (await ready.predict("intent", "hello")).json()["adapter"]["version"] == 1
    gone = await ready.client.delete(f"{ADMIN}/versions/2")
    assert (gone.status_code, gone.json()["code"]) == (404, "version_not_found")
    wrong = await ready.client.delete(f"{ADMIN}/versions/zero")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")
    assert (await ready.client.delete(ADMIN)).status_code == 204
    assert await ready.names() == []


async def test_aliases_are_promoted_and_rolled_back(ready: Any, bundles: Any) -> None:
    await ready.upload(bundles("intent", seed=1))
    url = f"{ADMIN}/aliases/production"
    first = await ready.client.put(url, json={"version": 1}, headers={"If-None-Match": "*"})
    assert first.status_code == 200, first.text
    alias = AliasInfo.model_validate(first.json())
    assert first.headers["etag"] == alias.etag
    unconditional = await ready.client.put(url, json={"version": 2})
    assert (unconditional.status_code, unconditional.json()["code"]) == (428, "precondition_required")
    moved = await ready.client.put(url, json={"version": 2}, headers={"If-Match": alias.etag})
    assert (moved.status_code, moved.json()["previous_version"]) == (200, 1)
    stale = await ready.client.put(url, json={"version": 1}, headers={"If-Match": alias.etag})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    read = await ready.client.get(url)
    assert read.headers["etag"] == read.json()["etag"] == moved.json()["etag"]
    listed = (await ready.client.get(f"{ADMIN}/aliases")).json()["data"]
    assert [entry["alias"] for entry in listed] == ["latest", "production"]
    kept = await ready.client.delete(f"{ADMIN}/versions/2")
    assert (kept.status_code, kept.json()["code"]) == (409, "conflict")
    assert (await ready.client.delete(url)).status_code == 204
    assert (await ready.client.get(url)).json()["code"] == "alias_not_found"


CLAIMS = [
    {"name": "f1", "value": 0.91, "dataset": "a:b"},
    {"name": "f1", "value": 0.62, "dataset": "wnut17", "split": "test", "num_examples": 1009},
    {"name": "accuracy", "value": 0.8, "dataset": "wnut17"},
]


async def put_with(server: Any, *require: str) -> Any:
    body = {"version": 2, "require": list(require)}
    return await server.client.put(f"{ADMIN}/aliases/production", json=body, headers={"If-Match": "*"})


@pytest.fixture
async def claiming(ready: Any, bundles: Any) -> Any:
    """Version 2 claims metrics, `production` stands on version 1."""
    await ready.upload(bundles("intent", seed=1, metrics=CLAIMS))
    await ready.client.put(f"{ADMIN}/aliases/production", json={"version": 1})
    return ready


@pytest.mark.parametrize(
    ("require", "values"),
    [
        (["f1>=0.62"], [0.91, 0.62]),
        (["wnut17:f1<0.7", "wnut17:accuracy > 0.5"], [0.62, 0.8]),
        (["a:b:f1>0.9"], [0.91]),
        (["accuracy<=0.8"], [0.8]),
        ([], []),
    ],
)
async def test_an_alias_moves_where_the_claims_meet_what_is_required(
    claiming: Any, require: list[str], values: list[float]
) -> None:
    moved = await put_with(claiming, *require)
    assert moved.status_code == 200, moved.text
    alias = AliasInfo.model_validate(moved.json())
    assert (alias.version, [claim.value for claim in alias.claims]) == (2, values)
    read = AliasInfo.model_validate((await claiming.client.get(f"{ADMIN}/aliases/production")).json())
    assert read == alias.model_copy(update={"claims": []})


@pytest.mark.parametrize(
    ("require", "status", "code", "mentions"),
    [
        (["f1>=0.9"], 412, "requirement_not_met", "intent@2 does not meet 'f1>=0.9': its uploader claims f1 0.62 on w"),
        (["f1>0.5", "wnut17:accuracy>0.8"], 412, "requirement_not_met", "accuracy 0.8 on wnut17 (dev)"),
        (["span_f1>=0.5"], 412, "requirement_not_met", "claims no 'span_f1' in its manifest"),
        (
            ["conll:f1>=0.5"],
            412,
            "requirement_not_met",
            "it claims f1 0.91 on a:b (dev), f1 0.62 on wnut17 (test), acc",
        ),
        (["f1"], 422, "invalid_request", "requirement 'f1' cannot be read"),
        (["f1=0.9"], 422, "invalid_request", "cannot be read"),
        (["f1>=nan"], 422, "invalid_request", "cannot be read"),
        (["f1>=inf"], 422, "invalid_request", "cannot be read"),
        ([">=0.9"], 422, "invalid_request", "cannot be read"),
        (["f1>=high"], 422, "invalid_request", "cannot be read"),
        (["f1>0"] * 33, 422, "invalid_request", "require"),
    ],
)
async def test_nothing_moves_where_the_claims_do_not(
    claiming: Any, require: list[str], status: int, code: str, mentions: str
) -> None:
    refused = await put_with(claiming, *require)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert mentions in refused.json()["detail"]
    assert (await claiming.client.get(f"{ADMIN}/aliases/production")).json()["version"] == 1


async def test_a_version_without_claims_meets_no_requirement(ready: Any) -> None:
    body = {"version": 1, "require": ["f1>0"]}
    refused = await ready.client.put(f"{ADMIN}/aliases/production", json=body)
    assert (refused.status_code, refused.json()["code"]) == (412, "requirement_not_met")
    assert "it claims nothing" in refused.json()["detail"]
    assert (await ready.client.get(f"{ADMIN}/aliases/production")).json()["code"] == "alias_not_found"


@pytest.mark.parametrize("alias", ["7", "latest", "UP", "a%20b"])
async def test_aliases_that_are_not_allowed(ready: Any, alias: str) -> None:
    response = await ready.client.put(f"{ADMIN}/aliases/{alias}", json={"version": 1})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_name")


async def test_residency_follows_the_wish(ready: Any) -> None:
    url = f"{ADMIN}/versions/1/residency"
    kept = await ready.client.put(url, json={"keep_resident": True})
    assert ResidencyInfo.model_validate(kept.json()).state == "resident"
    assert (await ready.client.get(url)).json()["keep_resident"] is True
    let_go = (await ready.client.put(url, json={"keep_resident": False})).json()
    assert (let_go["keep_resident"], let_go["state"]) == (False, "absent")
    assert (await ready.client.put(url, json={"keep_resident": "yes"})).status_code == 422


async def test_a_deleted_version_is_not_kept_any_more(ready: Any, bundles: Any) -> None:
    await ready.client.put(f"{ADMIN}/versions/1/residency", json={"keep_resident": True})
    await ready.client.delete(ADMIN)
    assert ready.engine.kept == {bundles("intent").digest: False}


async def test_the_memory_of_a_deleted_version_is_freed(ready: Any, bundles: Any) -> None:
    await ready.upload(bundles("intent", seed=1))
    await ready.upload(bundles("intent", seed=1), name="twin")
    await ready.client.delete(f"{ADMIN}/versions/2")
    assert ready.engine.forgotten == []
    await ready.client.delete(ADMIN)
    await ready.client.delete("/admin/v1/adapters/twin")
    assert ready.engine.forgotten == [bundles("intent").digest, bundles("intent", seed=1).digest]


async def test_kept_versions_are_loaded_at_start(serving: Any, bundles: Any) -> None:
    async with serving() as server:
        await server.upload(bundles("intent"))
        await server.client.put(f"{ADMIN}/versions/1/residency", json={"keep_resident": True})
    async with serving() as server:
        assert server.engine.kept == {bundles("intent").digest: True}
        assert (await server.predict("intent", "hello")).status_code == 200


async def test_bundles_of_a_folder_are_registered_at_start_once(serving: Any, bundles: Any) -> None:
    folder = bundles("intent").folder.parent
    bundles("ner", "token-classification")
    bundles("broken", seed=1).folder.joinpath("adapter.safetensors").write_bytes(b"nonsense")
    for _ in range(2):
        async with serving(registry={"state_dir": folder.parent / "state", "adapters_dir": folder}) as server:
            assert await server.names() == [("intent", 1, 1), ("ner", 1, 1)]


async def test_a_restart_brings_back_nothing_from_the_folder(serving: Any, bundles: Any) -> None:
    folder = bundles("intent").folder.parent
    bundles("ner", "token-classification")
    sections = {"registry": {"state_dir": folder.parent / "state", "adapters_dir": folder}}
    async with serving(**sections) as server:
        await server.client.delete("/admin/v1/adapters/ner")
        newer = bundles("intent", seed=1)
        await server.upload(newer)
        await server.client.delete(f"{ADMIN}/versions/1")
        newer.folder.rename(folder.parent / "elsewhere")
    async with serving(**sections) as server:
        assert await server.names() == [("intent", 2, 1)]


async def test_the_catalogue(ready: Any, bundles: Any) -> None:
    for name in ("ner", "other"):
        await ready.upload(bundles(name, "token-classification"))
    page = AdapterPage.model_validate((await ready.client.get("/v1/adapters", params={"limit": 2})).json())
    assert [entry.name for entry in page.data] == ["intent", "ner"]
    rest = (await ready.client.get("/v1/adapters", params={"cursor": page.next_cursor})).json()
    assert [entry["name"] for entry in rest["data"]] == ["other"]
    found = (await ready.client.get("/v1/adapters", params={"search": "NE"})).json()
    assert [entry["name"] for entry in found["data"]] == ["ner"]
    detail = AdapterDetail.model_validate((await ready.client.get("/v1/adapters/intent@1")).json())
    assert (detail.version, detail.labels, detail.prefix_len) == (1, ["good", "bad"], 3)
    example = await ready.predict("intent", detail.example)
    assert example.status_code == 200
    for params in ({"limit": 0}, {"limit": 5000}, {"limit": "many"}):
        wrong = await ready.client.get("/v1/adapters", params=params)
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")
    assert (await ready.client.get("/v1/adapters/nobody")).json()["code"] == "adapter_not_found"
