"""`map_file`: formats, order, single faults, and resuming to the same bytes wherever a run ended."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from prefixrack import AsyncClient, Client, InternalServerError
from prefixrack.file_map import MAX_BROKEN_IN_A_ROW

TEXTS = [f"text {number} é" for number in range(1, 1000)]


class Rack:
    """Labels each text with itself; fails the request that comes after `num_good` ones."""

    def __init__(self, wire: Any, num_good: int | None = None, version: int = 3) -> None:
        self._wire = wire
        self.num_good = num_good
        self.version = version
        self.refs: set[str] = set()
        self.num_inputs = 0

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            detail: httpx2.Response = self._wire.detail()
            return httpx2.Response(200, json=detail.json() | {"version": self.version})
        if self.num_good is not None:
            self.num_good -= 1
            if self.num_good < 0:
                broken: httpx2.Response = self._wire.problem(501, "internal_error")
                return broken
        self.refs.add(request.url.path.split("/")[2])
        inputs = json.loads(request.content)["inputs"]
        self.num_inputs += len(inputs)
        labels = [one if isinstance(one, str) else "+".join(one.values()) for one in inputs]
        answer: httpx2.Response = self._wire.prediction(
            *[self._wire.label(label) if label else self._wire.failed() for label in labels]
        )
        return answer

    def client(self) -> Client:
        return Client("http://rack", transport=httpx2.MockTransport(self.respond))


@pytest.fixture
def rack(wire: Any) -> Rack:
    return Rack(wire)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_of_json_lines(rack: Rack, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('\ufeff"a"\n{"id": 7, "inputs": "b"}\n\n{\n""\n"c"', encoding="utf-8")
    with rack.client() as client:
        summary = client.map_file("intent", source, target, batch_size=2)
    first, second, broken, empty, last = lines_of(target)
    assert (first["index"], first["output"]["label"]) == (0, "a")
    assert (second["id"], second["output"]["label"]) == (7, "b")
    assert (broken["index"], broken["error"]["code"]) == (2, "malformed_json")
    assert empty["error"]["code"] == "empty_input"
    assert (last["index"], last["output"]["label"]) == (4, "c")
    assert (summary.num_inputs, summary.num_failed, summary.num_resumed, summary.adapter) == (5, 2, 0, "intent@3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_table_keeps_its_columns(rack: Rack, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('id,text,note\n1,"a, with\na line end",x\n2,,y\n3,c,\n', encoding="utf-8-sig")
    with rack.client() as client:
        client.map_file("intent", source, target)
    rows = rows_of(target)
    assert [(row["id"], row["note"], row["predicted"], row["predicted_error"]) for row in rows] == [
        ("1", "x", "a, with\na line end", ""),
        ("2", "y", "", "empty_input"),
        ("3", "", "c", ""),
    ]
    assert json.loads(rows[0]["predicted_output"])["score"] == float(rows[0]["predicted_score"])


def test_columns_make_the_input(rack: Rack, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("premise,text,text_pair\np,a,b\n")
    with rack.client() as client:
        client.map_file("nli", source, target)
        assert lines_of(target)[0]["output"]["label"] == "a+b"
        client.map_file("nli", source, target, columns=["premise"])
        assert lines_of(target)[0]["output"]["label"] == "p"
        with pytest.raises(ValueError, match="has the columns premise, text, text_pair"):
            client.map_file("nli", source, target, columns=["other"])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("num_good", [0, 1, 5, 40])
def test_resuming_comes_to_the_same_bytes(rack: Rack, wire: Any, tmp_path: Path, suffix: str, num_good: int) -> None:
    source = tmp_path / f"in{suffix}"
    broken = ["{", '""'] if suffix == ".jsonl" else ['""', '"two\nlines"']
    texts = [json.dumps(text, ensure_ascii=False) for text in TEXTS]
    source.write_text("\n".join(["text"] * (suffix == ".csv") + texts + broken + texts) + "\n", encoding="utf-8")
    whole, target = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    sizes: dict[str, Any] = {"concurrency": 2, "batch_size": 16}
    with rack.client() as client:
        client.map_file("intent", source, whole, **sizes)

    faulty = Rack(wire, num_good)
    with faulty.client() as client:
        with pytest.raises(InternalServerError):
            client.map_file("intent", source, target, **sizes)
        assert not target.exists()
        part = target.with_name(target.name + ".part")
        with part.open("ab") as torn:
            torn.write(b"half a rec")  # what was written after the last checkpoint before a crash
        faulty.num_good, faulty.version = None, 4  # the alias moved in the meantime
        asked_before = faulty.num_inputs
        summary = client.map_file("intent", source, target, **sizes)
    assert target.read_bytes() == whole.read_bytes()
    assert summary.adapter == "intent@3"
    assert faulty.refs <= {"intent@3"}
    assert summary.num_resumed >= 16 * max(0, num_good - 2)
    assert faulty.num_inputs - asked_before <= summary.num_inputs - summary.num_resumed


def test_other_work_is_not_resumed(wire: Any, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    rack = Rack(wire, num_good=3)
    with rack.client() as client:
        with pytest.raises(InternalServerError):
            client.map_file("intent", source, target)
        rack.num_good = None
        with pytest.raises(ValueError, match=r"different: parameters\): give resume=False"):
            client.map_file("intent", source, target, top_k=2)
        assert client.map_file("intent", source, target, resume=False, top_k=2).num_resumed == 0


def test_a_file_that_is_something_else_is_given_up(rack: Rack, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("no json\n" * (MAX_BROKEN_IN_A_ROW + 1))
    with rack.client() as client, pytest.raises(ValueError, match="is this the right file"):
        client.map_file("intent", source, tmp_path / "out.jsonl")
    with rack.client() as client, pytest.raises(ValueError, match=r"end in \.jsonl or \.csv"):
        client.map_file("intent", source, tmp_path / "out.parquet")


def test_it_reads_a_bounded_way_ahead_and_tells_how_far_it_is(rack: Rack, source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def watch(done: int, total: int) -> None:
        seen.append((done, total))
        assert rack.num_inputs - len(seen) <= 3 * 10

    with rack.client() as client:
        client.map_file("intent", source, tmp_path / "out.jsonl", concurrency=3, batch_size=10, progress=watch)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (source.stat().st_size, source.stat().st_size)


def test_the_bar_is_drawn_when_asked_for(
    rack: Rack, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rack.client() as client:
        client.map_file("intent", source, tmp_path / "out.jsonl", progress=True)
        shown = capsys.readouterr().err
        assert "in.jsonl" in shown
        assert "100%" in shown
        client.map_file("intent", source, tmp_path / "out.jsonl")
        assert capsys.readouterr().err == ""


async def test_the_asynchronous_client_writes_the_same(rack: Rack, source: Path, tmp_path: Path) -> None:
    with rack.client() as client:
        client.map_file("intent", source, tmp_path / "sync.jsonl")
    async with AsyncClient("http://rack", transport=httpx2.MockTransport(rack.respond)) as aclient:
        summary = await aclient.map_file("intent", source, tmp_path / "async.jsonl")
    assert summary.num_inputs == len(TEXTS)
    assert (tmp_path / "sync.jsonl").read_bytes() == (tmp_path / "async.jsonl").read_bytes()
