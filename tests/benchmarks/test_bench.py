"""The run of all benchmarks: peers that cannot be set up, sections that fail, and what is left of the others."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import bench
from bench import Run, Section, peer_options, run_section
from peer_process import PEERS

SETUP = Path(bench.__file__).parent / "peers" / "setup"


def fake_setup(folder: Path, broken: str) -> None:
    """A `setup` that can make every environment but one."""
    script = folder / "setup"
    script.write_text(f'#!/bin/sh\ntest "$1" != "{broken}"\n', encoding="utf-8")
    script.chmod(0o755)


def test_a_peer_that_cannot_be_set_up_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_setup(tmp_path, broken="onnx")
    monkeypatch.setattr(bench, "PEERS_FOLDER", tmp_path)
    run = Run()
    options = peer_options(run, ["peft"])
    assert options == ["--without", "peft", "--without", "onnx", "--without", "onnx-int8"]
    assert len(run.failures) == 1
    assert "onnx could not be set up: leave out onnx, onnx-int8" in run.failures[0]


def test_a_peer_that_is_left_out_is_not_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_setup(tmp_path, broken="infinity")
    monkeypatch.setattr(bench, "PEERS_FOLDER", tmp_path)
    run = Run()
    peer_options(run, ["infinity"])
    assert not run.failures


def test_a_section_that_fails_keeps_the_lines_that_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'import sys; print(\'{"commit": "", "device": "", "setup": {}, "result": {"x": 1}}\'); sys.exit(3)'
    (tmp_path / "fails.py").write_text(script, encoding="utf-8")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "SECTIONS", {"fails": Section("fails.py", "")})
    run = Run()
    run_section(run, "fails", [], tmp_path)
    assert run.failures == ["section fails failed"]
    (line,) = map(json.loads, (tmp_path / "bench.jsonl").read_text(encoding="utf-8").splitlines())
    assert line["result"]["x"] == 1
    assert 0 <= line["result"]["others_cpu_share"] <= 1


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit, match="there is no peer nobody: they are stock"):
        bench.check_names("peer", ["nobody"], PEERS)


def test_setup_knows_every_peers_environment_and_no_other() -> None:
    done = subprocess.run([SETUP, "nobody"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    known = set(done.stderr.strip().rpartition(": they are ")[2].split())
    assert known == {peer.environment for peer in PEERS.values()}
    assert all((SETUP.parent / "constraints" / f"{name}.txt").is_file() for name in known)


def test_every_section_names_a_script() -> None:
    assert all((bench.HERE / section.script).is_file() for section in bench.SECTIONS.values())
