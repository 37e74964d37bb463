"""The client against the real app: what `prefixrack.AsyncClient` sends is what the routes take, and the way back."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from prefixrack import (
    AsyncClient,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    PreconditionFailedError,
    UnexpectedTaskError,
    UnprocessableEntityError,
)
from prefixrack.bundles import bundle_digest
from prefixrack.cli import top_view
from prefixrack.cli.top_view import Activity
from prefixrack.exposition import Interval, Scrape
from prefixrack.lines import Line
from prefixrack.types import BulkLine, ClassificationOutput, FailedOutput, PredictResponse


@pytest.fixture
async def sdk(server: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient("http://localhost", transport=httpx2.ASGITransport(app=server.app)) as client:
        yield client


async def push(sdk: AsyncClient, bundle: Any) -> int:
    return (await sdk.push(bundle.name, bundle.folder)).version


async def test_push_and_pull_give_the_same_bytes(sdk: AsyncClient, bundles: Any, tmp_path: Path) -> None:
    bundle, sent = bundles("intent"), [0]
    version = await sdk.push("intent", bundle.folder, progress=lambda done, total: sent.append(total - done))
    assert (version.version, version.is_new, version.digest) == (1, True, bundle.digest)
    assert sent[-1] == 0
    assert not (await sdk.push("intent", bundle.folder)).is_new
    detail = await sdk.pull("intent@1", tmp_path / "copy")
    assert detail.digest == bundle_digest(tmp_path / "copy") == bundle.digest
    assert (tmp_path / "copy" / "README.md").read_bytes() == (bundle.folder / "README.md").read_bytes()


async def test_typed_answers(sdk: AsyncClient, bundles: Any) -> None:
    await push(sdk, bundles("intent"))
    await push(sdk, bundles("ner", "token-classification"))
    await push(sdk, bundles("qa", "question-answering"))
    await push(sdk, bundles("copa", "multiple-choice"))
    await push(sdk, bundles("vectors", "text-embedding"))
    assert isinstance(await sdk.classify("intent", "hello"), ClassificationOutput)
    assert (await sdk.ner("ner", "hello world")).spans is not None
    assert (await sdk.answer("qa", {"question": "hello", "context": "good world"})).no_answer_score >= 0
    assert (await sdk.choose("copa", {"text": "hello", "choices": ["good", "bad"]})).choice in (0, 1)
    assert len((await sdk.embed("vectors", "hello")).embedding) == 8
    with pytest.raises(UnexpectedTaskError):
        await sdk.classify("ner", "hello")


async def test_faults_of_inputs(sdk: AsyncClient, bundles: Any) -> None:
    await push(sdk, bundles("intent"))
    with pytest.raises(UnprocessableEntityError) as caught:
        await sdk.classify("intent", "")
    assert caught.value.code == "empty_input"
    for inputs in (["hello", "", "a\ud800"], ["", "a\ud800"]):
        outputs = await sdk.classify("intent", inputs)
        codes = [output.error.code for output in outputs if isinstance(output, FailedOutput)]
        assert codes == ["empty_input", "invalid_unicode"]


async def test_predict_many_equals_predict(sdk: AsyncClient, bundles: Any) -> None:
    await push(sdk, bundles("intent"))
    texts = [letter * number for number in (1, 2) for letter in "abcdefg"]
    many = [output async for output in sdk.predict_many("intent", [*texts, ""], concurrency=3, batch_size=4)]
    assert many[:-1] == (await sdk.predict("intent", texts)).outputs
    assert isinstance(many[-1], FailedOutput)


async def test_files_and_streams_equal_predict(sdk: AsyncClient, bundles: Any, tmp_path: Path) -> None:
    await push(sdk, bundles("intent"))
    texts = [f"hello {number}" if number % 10 else "" for number in range(300)]
    expected = (await sdk.predict("intent", texts)).outputs
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(text) + "\n" for text in texts))

    summary = await sdk.map_file("intent", source, target, batch_size=7)
    mapped = [BulkLine.model_validate_json(line) for line in target.read_bytes().splitlines()]
    streamed = [line async for line in sdk.predict_stream("intent", (Line(text, id=text) for text in texts))]
    assert (summary.adapter, summary.num_failed) == ("intent@1", 30)
    assert [line.id for line in streamed] == texts
    for lines in (mapped, streamed):
        assert [line.index for line in lines] == list(range(300))
        assert [line.output or FailedOutput(error=line.error) for line in lines] == expected


async def test_a_response_as_it_came(sdk: AsyncClient, bundles: Any) -> None:
    await push(sdk, bundles("intent"))
    got = await sdk.with_raw_response.predict("intent", "hello")
    assert got.request_id == got.value.id
    assert got.value == PredictResponse.model_validate_json(got.response.content)
    assert got.headers["content-type"] == "application/json"


async def test_metrics_are_read_as_they_are_written(sdk: AsyncClient, bundles: Any) -> None:
    """What `prefixrack top` shows has names of its own; each of them is one that the server writes."""
    await push(sdk, bundles("intent"))
    before = Scrape.parse(await sdk.metrics(), 0.0)
    await sdk.predict("intent", ["hello", "good"])
    after = Scrape.parse(await sdk.metrics(), 1.0)
    seen = Activity.of(Interval(before, after), "http://localhost")
    assert seen.is_ready
    assert seen.facts["backbone"]
    (only,) = seen.adapters
    assert (only.adapter, only.version, only.requests_per_s) == ("intent", "1", 1)
    assert only.tokens_per_s > 0
    read = {name for name in re.findall(r'"(prefixrack_\w+)"', inspect.getsource(top_view)) if name in after.samples}
    histograms = {name for name in re.findall(r'"(prefixrack_\w+)"', inspect.getsource(top_view)) if name not in read}
    assert all(f"{name}_count" in after.samples for name in histograms), histograms


async def test_fan_out(sdk: AsyncClient, bundles: Any) -> None:
    await push(sdk, bundles("intent"))
    answer = await sdk.fan_out(["intent", "nobody"], "hello")
    assert set(answer.results) == {"intent@1", "nobody"}
    assert isinstance(answer.results["nobody"], FailedOutput)


async def test_promotion_rollback_and_deletion(sdk: AsyncClient, bundles: Any) -> None:
    first = bundles("intent", seed=1)
    for bundle in (first, bundles("intent", seed=2)):
        await push(sdk, bundle)
    assert (await sdk.promote("intent", 1)).version == 1
    assert (await sdk.promote("intent", 2)).previous_version == 1
    assert (await sdk.rollback("intent")).version == 1
    with pytest.raises(PreconditionFailedError):
        await sdk.set_alias("intent", "production", 2, if_match='"other"')
    with pytest.raises(ConflictError, match="production"):
        await sdk.with_options(max_retries=0).delete_version("intent", 1)
    await sdk.delete_version("intent", 2)
    assert [version.version async for version in sdk.list_versions("intent")] == [1]
    detail = await sdk.get_version("intent", 1)
    assert (detail.digest, detail.card) == (first.digest, "# intent\n")
    assert detail.manifest["labels"] == first.manifest["labels"]
    await sdk.delete_adapter("intent")
    assert [adapter async for adapter in sdk.list_adapters()] == []


async def test_promotion_with_requirements(sdk: AsyncClient, bundles: Any) -> None:
    await push(sdk, bundles("intent", metrics=[{"name": "f1", "value": 0.8, "dataset": "snli"}]))
    with pytest.raises(PreconditionFailedError, match=r"claims f1 0\.8 on snli") as refused:
        await sdk.promote("intent", 1, require="f1>=0.9")
    assert refused.value.code == "requirement_not_met"
    (claim,) = (await sdk.promote("intent", 1, require=["snli:f1>=0.8"])).claims
    assert (claim.requirement, claim.value, claim.dataset, claim.split) == ("snli:f1>=0.8", 0.8, "snli", "dev")
    detail = await sdk.get_adapter("intent")
    assert (detail.problem, detail.no_answer) == ("single_label", False)


async def test_lists_go_through_all_pages(sdk: AsyncClient, bundles: Any) -> None:
    for name in ("a", "b", "c"):
        await push(sdk, bundles(name))
    assert [adapter.name async for adapter in sdk.list_adapters(page_size=1)] == ["a", "b", "c"]
    assert [adapter.name async for adapter in sdk.list_adapters(search="b")] == ["b"]


async def test_residency_and_health(sdk: AsyncClient, bundles: Any) -> None:
    await push(sdk, bundles("intent"))
    assert (await sdk.set_residency("intent", 1, True)).keep_resident
    assert (await sdk.get_residency("intent", 1)).version == 1
    assert (await sdk.health()).ready


async def test_keys(serving: Any) -> None:
    async with serving(http={"auth": "keys"}) as server:
        secret = await server.registry.ensure_admin_key()
        transport = httpx2.ASGITransport(app=server.app)
        async with AsyncClient("http://localhost", secret, transport=transport) as admin:
            made = await admin.create_key(["predict"], expires_at="2999-01-01T00:00:00Z")
            others = [(await admin.create_key(["adapters:read"])).id for _ in range(3)]
            assert {key.id async for key in admin.list_keys(page_size=2)} >= {made.id, *others}
            successor = await admin.rotate_key(made.id, overlap_s=60)
            assert (successor.replaces, successor.scopes) == (made.id, ["predict"])
            await admin.revoke_key(made.id)
        async with AsyncClient("http://localhost", made.secret, transport=transport) as revoked:
            with pytest.raises(AuthenticationError):
                await revoked.get_adapter("intent")


async def test_errors_have_their_names(sdk: AsyncClient, bundles: Any) -> None:
    with pytest.raises(NotFoundError) as caught:
        await sdk.predict("nobody", "hello")
    assert caught.value.code == "adapter_not_found"
    assert caught.value.request_id
    with pytest.raises(BadRequestError):
        await sdk.predict("No.Such", "hello")
    await push(sdk, bundles("intent"))
    with pytest.raises(UnprocessableEntityError, match="topk"):
        await sdk.predict("intent", "hello", topk=3)
    assert (await sdk.with_options(deadline_s=20).predict("intent", "hello")).task == "text-classification"


async def test_tenants_and_their_keys(sdk: AsyncClient, bundles: Any) -> None:
    made = await sdk.create_tenant("acme", weight=2, quotas={"max_adapters": 1}, adapters=["a*"])
    assert (made.name, made.weight, made.quotas.max_adapters, made.adapters) == ("acme", 2, 1, ["a*"])
    changed = await sdk.update_tenant("acme", quotas={"max_adapters": None, "max_bytes": 9}, disabled=True)
    assert (changed.weight, changed.quotas.max_adapters, changed.quotas.max_bytes) == (2, None, 9)
    assert changed.disabled_at is not None
    await sdk.update_tenant("acme", adapters=[], quotas={"max_bytes": None}, disabled=False)
    assert [tenant.name async for tenant in sdk.list_tenants(page_size=1)] == ["acme", "default"]
    key = await sdk.create_key(["predict"], tenant="acme", adapters=["b"])
    assert [(found.id, found.adapters) async for found in sdk.list_keys(tenant="acme")] == [(key.id, ["b"])]
    await sdk.revoke_key(key.id, tenant="acme")
    await sdk.push("acme:intent", bundles("intent").folder)
    assert [adapter.name async for adapter in sdk.list_adapters(tenant="acme")] == ["intent"]
    assert (await sdk.promote("acme:intent", 1)).version == 1
    stored = (await sdk.get_tenant("acme")).stored
    assert stored is not None
    assert stored.num_adapters == 1
    with pytest.raises(NotFoundError) as caught:
        await sdk.get_tenant("nobody")
    assert caught.value.code == "tenant_not_found"


async def test_records_of_a_tenant(sdk: AsyncClient, server: Any, bundles: Any) -> None:
    await push(sdk, bundles("intent"))
    await sdk.predict("intent", "hello")
    await server.app.state.services.predictor.usage.flush()
    (line,) = [line async for line in sdk.list_usage(since="2020-01-01", until="2100-01-01")]
    assert (line.adapter, line.requests, line.rows) == ("intent", 1, 1)
    assert [line async for line in sdk.list_usage(until="2020-01-01")] == []
    actions = [line.action async for line in sdk.list_audit(page_size=1)]
    assert actions == ["version.add", "tenant.create"]
    assert [line.action async for line in sdk.list_audit(action="version.")] == ["version.add"]
    assert [line.action async for line in sdk.list_audit(adapter="nobody")] == []
