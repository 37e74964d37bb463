"""The chaos: two replicas on one PostgreSQL and one blob folder under load, while one thing after another goes away.

Every answer is compared with what its version says when it is alone; every acknowledged version must be answered by
both replicas in the end. Each phase says which status codes are right in it; another, or a wrong answer, fails the run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from canary_split import num_counted, versions_answering
from postgres_process import PostgresServer
from prefixrack import APIConnectionError, APIError, APIStatusError, Client
from prefixrack.types import PredictResponse
from prefixrack_adapters.backbone import Backbone
from rolling_restart import RestartPlan, balancer, load, restart_in_turn
from rolling_restart import summary as summary_of_restart
from serve_process import ServeProcess, wait_for
from specimens import PROBES, Specimen, assert_distinct, is_close, make_specimens
from tiny import write_backbone

NUM_REPLICAS = 2
NO_ANSWER = "no answer"
POLL_S = 0.01
WRITE_PAUSE_S = 0.15
BLOB_DISK_BYTES = 64 << 20
MAX_ROLLBACK_S = 1.0
CANARY_SHARE = 0.1
MAX_SHARE_ERROR = 0.01
FOLLOW_S = 2.0  # within which one replica follows the other


@dataclass(frozen=True)
class ChaosPlan:
    """`outage_s` is how long the database is away, `calm_s` how long load goes on before and after each event,
    `num_split` how many requests an alias with a canary gets, with keys and without."""

    num_callers: int = 4
    num_specimens: int = 150
    num_moves: int = 10
    calm_s: float = 3.0
    outage_s: float = 3.0
    num_split: int = 20_000
    seed: int = 0


class WrongAnswer(AssertionError):
    """An answer is not that of the version that it names, or has a code that is not right in this phase."""


@dataclass
class Fleet:
    """The replicas and what they share."""

    folder: Path
    postgres: PostgresServer
    replicas: list[ServeProcess]
    blobs: Path
    is_small_disk: bool

    def client(self, replica: int) -> Client:
        return Client(self.replicas[replica].base_url, max_retries=0, timeout_s=60)

    def blob(self, content: bytes) -> Path:
        sha256 = hashlib.sha256(content).hexdigest()
        return self.blobs / sha256[:2] / sha256


@dataclass
class Ledger:
    """What was acknowledged and what was answered; shared by all threads."""

    acknowledged: dict[str, Specimen] = field(default_factory=dict)  # by name@number
    codes: Counter[str] = field(default_factory=Counter)
    write_codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refs(self) -> list[str]:
        with self.lock:
            return list(self.acknowledged)

    def acknowledge(self, ref: str, specimen: Specimen) -> None:
        with self.lock:
            self.acknowledged[ref] = specimen

    def count(self, counter: Counter[str], code: str) -> None:
        with self.lock:
            counter[code] += 1

    def take_codes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Since the last time."""
        with self.lock:
            seen = dict(self.codes), dict(self.write_codes)
            self.codes.clear()
            self.write_codes.clear()
            return seen


@contextmanager
def fleet(folder: Path) -> Iterator[tuple[Fleet, Backbone]]:
    """Start everything on a tiny backbone; where this user may mount, blobs lie on a small disk of their own."""
    backbone = Backbone.load(write_backbone(folder / "backbone"), device="cpu")
    with ExitStack() as stack:
        postgres = PostgresServer()
        stack.callback(postgres.close)
        postgres.start()
        blobs = folder / "blobs"
        blobs.mkdir()
        is_small_disk = mount_small_disk(blobs)
        if is_small_disk:
            stack.callback(unmount, blobs)
        environment = {
            "PREFIXRACK_REGISTRY__DATABASE_URL": postgres.url(),
            "PREFIXRACK_REGISTRY__BLOBS_URL": f"file://{blobs}",
            "PREFIXRACK_HTTP__DRAIN_S": str(RestartPlan.drain_s),
        }
        replicas = []
        for number in range(NUM_REPLICAS):
            (folder / f"logs-{number}").mkdir()
            paths = (f"--backbone={folder / 'backbone'}", f"--state-dir={folder / f'state-{number}'}")
            options = ("--auth=none", "--dtype=float32", "--log-level=warning", *paths)
            replica = ServeProcess(folder / f"logs-{number}", "serve", *options, environment=environment)
            stack.callback(replica.kill)
            replicas.append(replica)
        for replica in replicas:
            replica.begin()
        wait_for(lambda: all(replica.is_ready() for replica in replicas))
        yield Fleet(folder, postgres, replicas, blobs, is_small_disk), backbone


def mount_small_disk(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={BLOB_DISK_BYTES}", "tmpfs", str(folder)]
    if shutil.which("mount") is None:
        return False
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Chaos:
    """One run."""

    def __init__(self, plan: ChaosPlan, fleet: Fleet, specimens: Sequence[Specimen]) -> None:
        self.plan = plan
        self.fleet = fleet
        self.ledger = Ledger()
        self._pool = list(reversed(specimens))
        self._is_over = threading.Event()
        self._may_write = threading.Event()
        self._may_write.set()
        self._pool_lock = threading.Lock()

    def run(self) -> Iterator[dict[str, Any]]:
        """A result for each phase, then one of the final check. Raises WrongAnswer."""
        for name in ("steady-a", "steady-b"):
            self._push(0, name)
        with ThreadPoolExecutor(self.plan.num_callers + 1) as threads:
            work = [threads.submit(self._call, Random(f"{self.plan.seed} {n}")) for n in range(self.plan.num_callers)]
            work.append(threads.submit(self._write, Random(f"{self.plan.seed} writer")))
            try:
                for phase, codes, write_codes in (
                    (self._calm, {"200"}, {"201"}),
                    (self._aliases_converge, {"200"}, {"201"}),
                    (self._rollback, {"200"}, {"201"}),
                    (self._canary_split, {"200"}, {"201"}),
                    (self._rolling_restart, {"200"}, {"201", NO_ANSWER}),
                    (self._kill_a_replica, {"200"}, {"201", NO_ANSWER}),
                    (self._restart_postgres, {"200", "503"}, {"201", "503"}),
                    (self._truncate_a_blob, {"200"}, {"201"}),
                    (self._fill_the_disk, {"200"}, {"201", "507"}),
                ):
                    yield self._result(phase, codes, write_codes)
            finally:
                self._is_over.set()
            for done in work:
                done.result()
        yield self._final_check()

    def _result(self, phase: Callable[[], dict[str, Any]], codes: set[str], write_codes: set[str]) -> dict[str, Any]:
        self.ledger.take_codes()
        measured = phase()
        time.sleep(self.plan.calm_s)
        seen, seen_writes = self.ledger.take_codes()
        self._check(phase.__name__, set(seen) - codes, set(seen_writes) - write_codes)
        return {"phase": phase.__name__.strip("_"), "answers": seen, "writes": seen_writes, **measured}

    def _check(self, phase: str, codes: set[str], write_codes: set[str]) -> None:
        if codes or write_codes or self.ledger.faults:
            raise WrongAnswer(f"{phase}: {codes or write_codes or ''} {self.ledger.faults[:3]}")

    def _calm(self) -> dict[str, Any]:
        return {}

    def _aliases_converge(self) -> dict[str, Any]:
        """How long until a move at one replica is seen at the other."""
        self._push(0, "moved"), self._push(0, "moved")
        seconds = []
        with self.fleet.client(0) as client:
            for move in range(self.plan.num_moves):
                number = 1 + move % 2
                client.promote("moved", number)
                seconds.append(self._seconds_until(lambda number=number: self._version_at(1, "moved") == number))  # type: ignore[misc]
        return {"converge_s": summary(seconds)}

    def _rollback(self) -> dict[str, Any]:
        """Callers of the bare name at both replicas, while one call takes a promotion back."""
        self._push(0, "rolled"), self._push(0, "rolled")
        with self.fleet.client(0) as client:
            client.promote("rolled", 1)
            client.promote("rolled", 2)
            wait_for(lambda: self._version_at(1, "rolled") == 2)
            with self._watching("rolled") as watchers:
                time.sleep(0.5)
                started = time.monotonic()
                client.rollback("rolled")
                called_s = time.monotonic() - started
                time.sleep(2.0)
        last_s = [max((at - started for at, number in seen if number == 2), default=0.0) for seen in watchers]
        num_failed = sum(number is None for seen in watchers for _, number in seen)
        if num_failed or max(last_s) > MAX_ROLLBACK_S:
            raise WrongAnswer(f"{num_failed} requests failed during a rollback, the old answers ended after {last_s} s")
        return {
            "rollback_call_s": round(called_s, 3),
            "last_old_answer_s": [round(seconds, 3) for seconds in last_s],
            "requests": sum(map(len, watchers)),
            "failed": num_failed,
        }

    def _canary_split(self) -> dict[str, Any]:
        """Callers with keys and without, at both replicas in turn; then the same ones again, and a larger share."""
        self._push(0, "split"), self._push(0, "split")
        self._may_write.clear()  # versions are few, and this takes long
        urls, number = [replica.base_url for replica in self.fleet.replicas], self.plan.num_split
        keys = [f"caller-{caller}" for caller in range(number)]
        with self.fleet.client(0) as client:
            client.promote("split", 1)
            client.start_canary("split", 2, CANARY_SHARE)
            wait_for(lambda: 2 in versions_answering(urls[1:], "split", keys[:200]))
            before = num_counted(urls, "split", "canary")
            by_key = versions_answering(urls, "split", keys)
            by_chance = versions_answering(urls, "split", [None] * number)
            num_canary, counted = by_key.count(2) + by_chance.count(2), num_counted(urls, "split", "canary") - before
            again = versions_answering(urls[::-1], "split", keys[: number // 10])
            chosen = [key for key, version in zip(keys, by_key, strict=True) if version == 2]
            client.start_canary("split", 2, 2 * CANARY_SHARE)
            time.sleep(FOLLOW_S)
            kept = versions_answering(urls, "split", chosen)
            client.rollback("split")
        self._may_write.set()
        shares = {name: seen.count(2) / number for name, seen in (("with_keys", by_key), ("by_chance", by_chance))}
        if any(abs(share - CANARY_SHARE) > MAX_SHARE_ERROR for share in shares.values()) or counted != num_canary:
            raise WrongAnswer(f"a canary of {CANARY_SHARE} got {shares}, and {counted} of {num_canary} were counted")
        if again != by_key[: len(again)] or set(kept) != {2}:
            raise WrongAnswer("callers with a key changed their version")
        return {"requests": 2 * number, "share": CANARY_SHARE, **shares, "asked_again": len(again), "kept": len(kept)}

    def _rolling_restart(self) -> dict[str, Any]:
        """Both replicas behind a balancer: its callers see nothing of it."""
        haproxy = shutil.which("haproxy")
        if haproxy is None:
            return {"skipped": "haproxy is not installed: apt-get install haproxy"}
        plan, replicas = RestartPlan(callers=self.plan.num_callers, calm_s=self.plan.calm_s), self.fleet.replicas
        with (
            balancer(haproxy, replicas, self.fleet.folder) as front,
            load(plan, front.url, "rolled") as tally,
        ):
            restart_s = restart_in_turn(plan, replicas, tally, front)
        result = summary_of_restart(tally, restart_s)
        if result["num_failed"]:
            raise WrongAnswer(f"requests failed during a rolling restart: {result['answers']}")
        return result

    def _kill_a_replica(self) -> dict[str, Any]:
        victim = self.fleet.replicas[0]
        victim.kill()
        time.sleep(self.plan.calm_s)
        started = time.monotonic()
        victim.start()
        ready_s = time.monotonic() - started
        ref = self._push(1, "after-kill")
        converge_s = self._seconds_until(lambda: self._answers(0, ref))
        return {"restart_to_ready_s": round(ready_s, 3), "converge_s": round(converge_s, 3)}

    def _restart_postgres(self) -> dict[str, Any]:
        self.fleet.postgres.stop("immediate")
        time.sleep(self.plan.outage_s)
        self.fleet.postgres.start()
        started = time.monotonic()
        refs = [self._push_in_the_end(replica, "after-restart") for replica in range(NUM_REPLICAS)]
        write_s = time.monotonic() - started
        for ref in refs:
            for replica in range(NUM_REPLICAS):
                wait_for(lambda ref=ref, replica=replica: self._answers(replica, ref))  # type: ignore[misc]
        return {"recover_writes_s": round(write_s, 3), "recover_and_converge_s": round(time.monotonic() - started, 3)}

    def _truncate_a_blob(self) -> dict[str, Any]:
        """The other replica has not loaded it yet. It answers for the damaged adapter alone, until it is mended."""
        specimen = self._take()
        with self.fleet.client(0) as client:
            client.push("damaged", specimen.folder)
            content = (specimen.folder / "adapter.safetensors").read_bytes()
            self.fleet.blob(content).write_bytes(content[: len(content) // 2])
            wait_for(lambda: self._status(1, "damaged@1") != 404)
            status = self._status(1, "damaged@1")
            if status != 500:
                raise WrongAnswer(f"a truncated blob answers {status}, 500 is right")
            started = time.monotonic()
            client.push("damaged", specimen.folder)
        mended_s = self._seconds_until(lambda: self._status(1, "damaged@1") == 200, started)
        self.ledger.acknowledge("damaged@1", specimen)
        return {"damaged": status, "mended_s": round(mended_s, 3)}

    def _fill_the_disk(self) -> dict[str, Any]:
        if not self.fleet.is_small_disk:
            return {"skipped": "blobs are on no disk of their own: mounting one needs root"}
        junk = self.fleet.blobs / "junk"
        with suppress(OSError), junk.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        wait_for(lambda: self.ledger.write_codes["507"] > 0)
        time.sleep(self.plan.calm_s)
        junk.unlink()
        started = time.monotonic()
        self._push_in_the_end(0, "after-full-disk")
        return {"recover_writes_s": round(time.monotonic() - started, 3)}

    def _final_check(self) -> dict[str, Any]:
        refs = self.ledger.refs()
        lost = [(ref, replica) for ref in refs for replica in range(NUM_REPLICAS) if not self._answers(replica, ref)]
        if lost:
            raise WrongAnswer(f"acknowledged, but not answered as they should be: {lost[:5]}")
        return {"phase": "final_check", "acknowledged_versions": len(refs), "lost": 0, "wrong_answers": 0}

    def _call(self, random: Random) -> None:
        """A caller who asks the other replica where one gives no answer."""
        with httpx2.Client(timeout=60) as http:
            while not self._is_over.is_set():
                ref = random.choice(self.ledger.refs())
                replicas = random.sample(range(NUM_REPLICAS), NUM_REPLICAS)
                answers = (self._ask(http, replica, ref) for replica in replicas)
                code = next((code for code in answers if code != NO_ANSWER), NO_ANSWER)
                self.ledger.count(self.ledger.codes, code)
                time.sleep(POLL_S)

    def _write(self, random: Random) -> None:
        while not self._is_over.is_set():
            if not self._may_write.wait(WRITE_PAUSE_S):
                continue
            replica = random.randrange(NUM_REPLICAS)
            code = self._try_push(replica, f"written-{random.randrange(5)}")
            self.ledger.count(self.ledger.write_codes, code)
            time.sleep(WRITE_PAUSE_S)

    def _ask(self, http: httpx2.Client, replica: int, ref: str) -> str:
        body = {"inputs": list(PROBES), "parameters": {"logits": True}}
        try:
            response = http.post(f"{self.fleet.replicas[replica].base_url}/v1/{ref}/predict", json=body)
        except httpx2.TransportError:
            return NO_ANSWER
        if response.status_code == 200 and not self._is_right(ref, response.json()):
            self.ledger.faults.append(f"replica {replica} gave a wrong answer for {ref}")
        # Acknowledged by one replica, not yet seen by the other: it says so, and is asked again.
        if response.status_code == 404 and self._seconds_until(lambda: self._answers(replica, ref)) < 2.0:
            return "200"
        return str(response.status_code)

    def _is_right(self, ref: str, document: dict[str, Any]) -> bool:
        specimen, response = self.ledger.acknowledged[ref], PredictResponse.model_validate(document)
        return response.adapter.digest == specimen.digest and all(
            is_close(output.model_dump(), answer)
            for output, answer in zip(response.outputs, specimen.answers, strict=True)
        )

    def _answers(self, replica: int, ref: str) -> bool:
        with httpx2.Client(timeout=60) as http:
            body = {"inputs": list(PROBES), "parameters": {"logits": True}}
            response = http.post(f"{self.fleet.replicas[replica].base_url}/v1/{ref}/predict", json=body)
        return response.status_code == 200 and self._is_right(ref, response.json())

    def _status(self, replica: int, ref: str) -> int:
        url = f"{self.fleet.replicas[replica].base_url}/v1/{ref}/predict"
        return httpx2.post(url, json={"inputs": PROBES[0]}, timeout=60).status_code

    def _version_at(self, replica: int, name: str) -> int | None:
        url = f"{self.fleet.replicas[replica].base_url}/v1/{name}/predict"
        response = httpx2.post(url, json={"inputs": PROBES[0]}, timeout=60)
        return int(response.json()["adapter"]["version"]) if response.status_code == 200 else None

    @contextmanager
    def _watching(self, name: str) -> Iterator[list[list[tuple[float, int | None]]]]:
        """Ask every replica for the bare name all the time: when which version answered, None for a failure."""
        seen: list[list[tuple[float, int | None]]] = [[] for _ in range(NUM_REPLICAS)]
        over = threading.Event()

        def watch(replica: int) -> None:
            while not over.is_set():
                at = time.monotonic()
                seen[replica].append((at, self._version_at(replica, name)))

        with ThreadPoolExecutor(NUM_REPLICAS) as threads:
            done = [threads.submit(watch, replica) for replica in range(NUM_REPLICAS)]
            try:
                yield seen
            finally:
                over.set()
            for one in done:
                one.result()

    def _seconds_until(self, is_so: Callable[[], bool], started: float | None = None) -> float:
        begun = time.monotonic() if started is None else started
        while not is_so():
            if time.monotonic() - begun > 60:
                raise WrongAnswer("what was acknowledged was not seen for a minute")
            time.sleep(POLL_S)
        return time.monotonic() - begun

    def _take(self) -> Specimen:
        with self._pool_lock:
            return self._pool.pop()

    def _push(self, replica: int, name: str) -> str:
        specimen = self._take()
        with self.fleet.client(replica) as client:
            info = client.push(name, specimen.folder)
        ref = f"{name}@{info.version}"
        self.ledger.acknowledge(ref, specimen)
        return ref

    def _push_in_the_end(self, replica: int, name: str) -> str:
        while True:
            try:
                return self._push(replica, name)
            except APIStatusError as error:
                if error.status not in (503, 507):
                    raise
                time.sleep(POLL_S)

    def _try_push(self, replica: int, name: str) -> str:
        try:
            self._push(replica, name)
        except APIStatusError as error:
            return str(error.status)
        except APIConnectionError:
            return NO_ANSWER
        except APIError as error:
            return type(error).__name__
        return "201"


def summary(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {"median": round(ordered[len(ordered) // 2], 3), "max": round(ordered[-1], 3), "runs": len(ordered)}


def run_chaos(plan: ChaosPlan, folder: Path) -> Iterator[dict[str, Any]]:
    with fleet(folder) as (running, backbone):
        specimens = make_specimens(backbone, folder / "specimens", plan.num_specimens, plan.seed)
        assert_distinct(specimens)
        yield from Chaos(plan, running, specimens).run()
