"""Two servers on one PostgreSQL and one object store: what one acknowledged both answer, whatever goes away meanwhile.

Real processes, started once for all tests, on a tiny backbone. No test waits for a time; `benchmarks/chaos.py` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from canary_split import num_counted, versions_answering
from object_store import Bucket, make_bucket, object_store
from postgres_process import PostgresServer
from prefixrack import APIConnectionError, APIStatusError, Client, NotFoundError
from prefixrack_adapters.backbone import Backbone
from real_parts import running_postgres
from serve_process import TIMEOUT_S, ServeProcess, wait_for
from specimens import PROBES, Specimen, is_close, make_specimens
from tiny import write_backbone

NUM_ACKNOWLEDGED = 4


@dataclass
class Pair:
    """Two replicas, and what they share."""

    replicas: tuple[ServeProcess, ServeProcess]
    postgres: PostgresServer
    bucket: Bucket
    specimens: list[Specimen]
    num_used: int = 0

    def client(self, replica: int) -> Client:
        return Client(self.replicas[replica].base_url, max_retries=0)

    def specimen(self) -> Specimen:
        """One that nobody has uploaded yet."""
        self.num_used += 1
        return self.specimens[self.num_used - 1]

    def answers(self, replica: int, ref: str, specimen: Specimen) -> bool:
        """Whether a replica answers as this version does when it is alone."""
        try:
            with self.client(replica) as client:
                response = client.predict(ref, list(PROBES), logits=True)
        except NotFoundError:
            return False
        return response.adapter.digest == specimen.digest and all(
            is_close(output.model_dump(), answer)
            for output, answer in zip(response.outputs, specimen.answers, strict=True)
        )

    def post(self, replica: int, ref: str) -> httpx2.Response:
        url = f"{self.replicas[replica].base_url}/v1/{ref}/predict"
        return httpx2.post(url, json={"inputs": PROBES[0]}, timeout=TIMEOUT_S)

    def health(self, replica: int) -> Any:
        return httpx2.get(f"{self.replicas[replica].base_url}/health/ready", timeout=TIMEOUT_S).json()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("replicas")
    backbone = Backbone.load(write_backbone(folder / "backbone"), device="cpu")
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        bucket = make_bucket(stack.enter_context(object_store()))
        settings = {"DATABASE_URL": postgres.url(), "BLOBS_URL": bucket.url}
        environment = {f"PREFIXRACK_REGISTRY__{key}": value for key, value in settings.items()} | bucket.environment
        replicas = []
        for name in ("a", "b"):
            paths = (f"--backbone={folder / 'backbone'}", f"--state-dir={folder / name}")
            (folder / f"logs-{name}").mkdir()
            options = ("--dtype=float32", "--auth=none", *paths)
            replica = ServeProcess(folder / f"logs-{name}", "serve", *options, environment=environment)
            stack.callback(replica.kill)
            replicas.append(replica)
        for replica in replicas:  # at once: both migrate the empty database
            replica.begin()
        wait_for(lambda: all(replica.is_ready() or not replica.is_running for replica in replicas))
        assert all(replica.is_running for replica in replicas), [replica.output()[-2000:] for replica in replicas]
        yield Pair((replicas[0], replicas[1]), postgres, bucket, make_specimens(backbone, folder / "specimens", 60))


def test_both_follow_what_one_was_told(pair: Pair) -> None:
    first, second = pair.specimen(), pair.specimen()
    with pair.client(0) as one, pair.client(1) as other:
        one.push("followed", first.folder)
        wait_for(lambda: pair.answers(1, "followed", first))
        other.push("followed", second.folder)
        wait_for(lambda: pair.answers(0, "followed", second))
        one.promote("followed", 1)
        assert pair.answers(0, "followed", first)
        wait_for(lambda: pair.answers(1, "followed", first))
        other.promote("followed", 2)
        other.rollback("followed")
        wait_for(lambda: pair.answers(0, "followed", first))
        one.delete_adapter("followed")
        wait_for(lambda: pair.post(1, "followed").status_code == 404)


def test_both_send_the_same_callers_to_a_canary(pair: Pair) -> None:
    urls, keys = [replica.base_url for replica in pair.replicas], [f"caller-{number}" for number in range(60)]
    with pair.client(0) as one, pair.client(1) as other:
        one.push("split", pair.specimen().folder)
        one.push("split", pair.specimen().folder)
        one.promote("split", 1)
        other.start_canary("split", 2, 0.5)
        wait_for(lambda: 2 in versions_answering(urls[:1], "split", keys))
        before = [num_counted(urls, "split", role) for role in ("stable", "canary")]
        first, swapped = (versions_answering(order, "split", keys) for order in (urls, urls[::-1]))
        assert first == swapped
        assert set(first) == {1, 2}
        counted = [num_counted(urls, "split", role) for role in ("stable", "canary")]
        assert [now - then for now, then in zip(counted, before, strict=True)] == [
            2 * first.count(1),
            2 * first.count(2),
        ]
        other.rollback("split")
        wait_for(lambda: set(versions_answering(urls, "split", keys)) == {1})


def test_a_damaged_blob_fails_alone_and_is_fetched_again_when_it_is_mended(pair: Pair) -> None:
    good, damaged = pair.specimen(), pair.specimen()
    with pair.client(0) as client:
        client.push("good", good.folder)
        client.push("damaged", damaged.folder)
    tensors = (damaged.folder / "adapter.safetensors").read_bytes()
    pair.bucket.put(hashlib.sha256(tensors).hexdigest(), tensors[:-7])  # the other replica has no copy yet
    wait_for(lambda: pair.answers(1, "good", good))
    wait_for(lambda: pair.post(1, "damaged").status_code != 404)
    response = pair.post(1, "damaged")
    assert (response.status_code, response.json()["code"]) == (500, "blob_unusable")
    assert "upload its adapter again" in response.json()["detail"]
    assert pair.answers(1, "good", good)
    with pair.client(0) as client:
        assert not client.push("damaged", damaged.folder).is_new
    wait_for(lambda: pair.post(1, "damaged").status_code == 200)
    assert pair.answers(1, "damaged", damaged)


def test_predictions_go_on_while_the_database_is_away(pair: Pair) -> None:
    known, late = pair.specimen(), pair.specimen()
    with pair.client(0) as client:
        client.push("known", known.folder)
    wait_for(lambda: pair.answers(0, "known", known) and pair.answers(1, "known", known))
    pair.postgres.stop("immediate")
    try:
        for replica in (0, 1):
            assert pair.answers(replica, "known", known)
            with pair.client(replica) as client, pytest.raises(APIStatusError) as refused:
                client.push("known", late.folder)
            assert (refused.value.status, refused.value.code) == (503, "registry_unavailable")
            assert refused.value.retry_after == 1
            assert pair.answers(replica, "known", known)
            assert pair.health(replica) == {"ready": True, "registry": False}
    finally:
        pair.postgres.start()
    wait_for(lambda: is_taken(pair, "known", late))
    wait_for(lambda: pair.answers(0, "known", late) and pair.answers(1, "known", late))


def is_taken(pair: Pair, name: str, specimen: Specimen) -> bool:
    try:
        with pair.client(0) as client:
            client.push(name, specimen.folder)
    except APIStatusError as error:
        if error.status != 503:
            raise
        return False
    return True


def test_what_a_killed_replica_acknowledged_the_other_answers(pair: Pair) -> None:
    acknowledged: dict[int, Specimen] = {}

    def upload_until_cut_off() -> None:
        with pair.client(0) as client:
            for specimen in pair.specimens[pair.num_used :]:  # so many that some are left
                try:
                    acknowledged[client.push("durable", specimen.folder).version] = specimen
                except APIConnectionError:
                    return

    with ThreadPoolExecutor(1) as pool:
        uploads: Any = pool.submit(upload_until_cut_off)
        wait_for(lambda: len(acknowledged) >= NUM_ACKNOWLEDGED or uploads.done())
        pair.replicas[0].kill()
        uploads.result()
    assert len(acknowledged) >= NUM_ACKNOWLEDGED
    for number, specimen in acknowledged.items():
        assert pair.answers(1, f"durable@{number}", specimen)
    pair.replicas[0].start()
    for number, specimen in acknowledged.items():
        assert pair.answers(0, f"durable@{number}", specimen)
