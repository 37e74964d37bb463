"""`prefixrack serve --http-workers 2`, parts of which are killed: what is answered, what goes on, how it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest

from prefixrack_adapters.spec import BackboneSpec
from serve_process import TIMEOUT_S, ServeProcess, is_alive, wait_for, words_of
from tiny import write_backbone, write_random_bundle

NUM_FRONT_ENDS = 2
MAX_SILENCE_S = 3.0
NUM_CALLERS = 16  # so many connections do not all go to one front end


@dataclass
class World:
    process: ServeProcess

    def parts(self, name: str) -> list[psutil.Process]:
        """The processes of a part, "engine" or "front-end-0"; none where it has just died."""
        return [child for child in self.children() if any(name in word for word in words_of(child))]

    def children(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.process.pid).children() if is_alive(child)]

    def num_started(self) -> int:
        """How many front ends have begun to take requests."""
        return self.process.output().count("a front end takes requests")

    def predict(self) -> httpx2.Response:
        """One request, on a connection of its own."""
        return httpx2.post(
            f"{self.process.base_url}/v1/intent/predict", json={"inputs": "the cat sat"}, timeout=TIMEOUT_S
        )

    def get(self, path: str) -> httpx2.Response:
        """One request, on a connection of its own."""
        return httpx2.get(f"{self.process.base_url}{path}", timeout=TIMEOUT_S)

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    backbone = write_backbone(folder / "backbone")
    write_random_bundle(folder / "bundles" / "intent", BackboneSpec.load(backbone), name="intent")
    paths = {"backbone": backbone, "state-dir": folder / "state", "adapters": folder / "bundles"}
    arguments = [f"--{option}={path}" for option, path in paths.items()]
    workers = f"--http-workers={NUM_FRONT_ENDS}"
    process = ServeProcess(folder, "serve", "--dtype=float32", *arguments, workers, "--auth=none")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFIXRACK_ENGINE__MAX_SILENCE_S", str(MAX_SILENCE_S))
        yield World(process)
    process.kill()


@pytest.fixture
def server(world: World) -> World:
    if not world.process.is_running:
        world.process.start()
    wait_for(lambda: world.num_started() >= NUM_FRONT_ENDS)
    return world


@contextmanager
def unanswered_requests(server: World) -> Iterator[list[Future[httpx2.Response]]]:
    """Requests that wait in a stopped engine; inside the block it still is."""
    (engine,) = server.parts("engine")
    engine.suspend()
    with ThreadPoolExecutor(NUM_CALLERS) as pool:
        calls = [pool.submit(server.predict) for _ in range(NUM_CALLERS)]
        wait_for(lambda: server.metric("prefixrack_inflight_rows") == NUM_CALLERS)
        yield calls


def test_a_front_end_that_dies_is_replaced_and_its_rows_are_dropped(server: World) -> None:
    num_rows, num_started = server.metric("prefixrack_rows_total"), server.num_started()
    with unanswered_requests(server) as calls:
        (dead,) = server.parts("front-end-1")
        dead.kill()
        wait_for(lambda: any(part != dead for part in server.parts("front-end-1")))
        server.parts("engine")[0].resume()
    cut_off = [call for call in calls if isinstance(call.exception(), httpx2.TransportError)]
    answered = [call.result() for call in calls if call not in cut_off]
    assert 0 < len(cut_off) < NUM_CALLERS
    assert {answer.status_code for answer in answered} == {200}
    wait_for(lambda: server.num_started() == num_started + 1)
    assert "front end 1" in server.process.output()
    # front ends hear from the engine now and then
    wait_for(lambda: server.metric("prefixrack_inflight_rows") == server.metric("prefixrack_queue_rows") == 0)
    wait_for(lambda: server.metric("prefixrack_rows_total") >= num_rows + len(answered))
    # the dead one's may have been in a pack before the engine heard of its end; test_engine_client.py cancels rows
    assert server.metric("prefixrack_rows_total") <= num_rows + NUM_CALLERS
    assert {server.predict().status_code for _ in range(NUM_CALLERS)} == {200}


def test_a_front_end_that_hangs_is_replaced(server: World) -> None:
    num_started = server.num_started()
    (hanging,) = server.parts("front-end-0")
    hanging.suspend()
    wait_for(lambda: server.num_started() == num_started + 1)
    assert not is_alive(hanging)
    assert {server.predict().status_code for _ in range(NUM_CALLERS)} == {200}


def test_an_engine_that_hangs_fails_liveness_at_every_front_end(server: World) -> None:
    def statuses() -> set[int]:
        return {server.get("/health/live").status_code for _ in range(NUM_CALLERS)}

    wait_for(lambda: statuses() == {200})
    with unanswered_requests(server) as calls:
        wait_for(lambda: statuses() == {503})
        server.parts("engine")[0].resume()
    assert {call.result().status_code for call in calls} == {200}
    wait_for(lambda: statuses() == {200})


def test_without_its_engine_the_server_answers_everybody_and_ends(server: World) -> None:
    with unanswered_requests(server) as calls:
        server.parts("engine")[0].kill()
    answers = [call.result() for call in calls]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "not_ready")}
    assert all("the engine's process has ended" in answer.json()["detail"] for answer in answers)
    assert all("retry-after" in answer.headers for answer in answers)
    assert server.process.wait() == 1
    assert "error: engine" in server.process.output()
    assert "Traceback" not in server.process.output()


def test_a_server_that_lost_its_engine_says_so(server: World) -> None:
    """With its supervisor stopped, which would end it at once."""
    supervisor = psutil.Process(server.process.pid)
    supervisor.suspend()
    server.parts("engine")[0].kill()

    def say_so() -> bool:
        """Whichever front end is asked."""
        answers = [server.get("/health/live") for _ in range(NUM_CALLERS)]
        return all("the engine has ended" in answer.text for answer in answers)

    wait_for(say_so)
    assert server.get("/health/live").status_code == 503
    assert "takes no work" in server.get("/health/ready").json()["detail"]
    assert "prefixrack_engine_ready 0.0" in server.get("/metrics").text
    answer = server.predict()
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    supervisor.resume()
    assert server.process.wait() == 1


def test_nothing_outlives_a_killed_supervisor(server: World) -> None:
    children = server.children()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    wait_for(lambda: not any(is_alive(child) for child in children))
    server.process.start()
    assert server.predict().status_code == 200


def test_a_signal_while_it_starts_ends_it(world: World) -> None:
    if world.process.is_running:
        world.process.send_signal(signal.SIGTERM)
        assert world.process.wait() == 0
    world.process.begin()
    wait_for(lambda: bool(world.children()))
    children = world.children()
    world.process.send_signal(signal.SIGTERM)
    assert world.process.wait() == 0
    assert not any(is_alive(child) for child in children)
    assert "Traceback" not in world.process.output()


def test_what_a_child_cannot_start_with_is_told_as_ever(tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    arguments = [f"--backbone={folder}", f"--state-dir={tmp_path / 'state'}", "--http-workers=1"]
    process = ServeProcess(tmp_path, "serve", "--dtype=float32", *arguments)
    process.begin()
    assert process.wait() == 2
    assert "'unheard-of'" in process.output()
    assert "Traceback" not in process.output()
