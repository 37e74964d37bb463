"""The run of all benchmarks: peers that cannot be set up, sections that fail, and what is left of the others."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import bench
from bench import GPU_SECTIONS, SECTIONS, Run, Section, peer_options, run_section
from peer_process import PEERS, peers_on
from serve_process import wait_for

SETUP = Path(bench.__file__).parent / "peers" / "setup"


def fake_setup(folder: Path, broken: str) -> None:
    """A `setup` that can make every environment but one."""
    script = folder / "setup"
    script.write_text(f'#!/bin/sh\ntest "$1" != "{broken}"\n', encoding="utf-8")
    script.chmod(0o755)


def run_on(device: str, folder: Path) -> Run:
    return Run(device, folder / "bench.jsonl", folder)


def test_a_peer_that_cannot_be_set_up_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_setup(tmp_path, broken="onnx")
    monkeypatch.setattr(bench, "PEERS_FOLDER", tmp_path)
    run = run_on("cpu", tmp_path)
    options = peer_options(run, ["peft"])
    assert options == ["--without", "peft", "--without", "onnx", "--without", "onnx-int8"]
    assert len(run.failures) == 1
    assert "onnx could not be set up: leave out onnx, onnx-int8" in run.failures[0]


def test_a_peer_that_is_left_out_is_not_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_setup(tmp_path, broken="infinity")
    monkeypatch.setattr(bench, "PEERS_FOLDER", tmp_path)
    run = run_on("cpu", tmp_path)
    peer_options(run, ["infinity"])
    assert not run.failures


def test_a_section_that_fails_keeps_the_lines_that_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'import sys; print(\'{"commit": "", "device": "", "setup": {}, "result": {"x": 1}}\'); sys.exit(3)'
    (tmp_path / "fails.py").write_text(script, encoding="utf-8")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    run = run_on("cpu", tmp_path)
    run_section(run, "fails", Section("fails.py", ""), [])
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


def test_a_section_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = '{"commit": "", "device": "", "setup": {}, "result": {}}'
    # What it starts has its standard output too: as long as that lives, the line is not at its end.
    starts = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    says_so = f"open({str(tmp_path / 'begun')!r}, 'w').close()"
    script = f"import subprocess, sys, time; print({line!r}, flush=True); {starts}; {says_so}; time.sleep(600)"
    (tmp_path / "hangs.py").write_text(script, encoding="utf-8")

    class Impatient(subprocess.Popen[str]):
        """Its time is over as soon as it hangs."""

        def communicate(self, *given: Any, **named: Any) -> tuple[str, str]:
            if named.get("timeout") is not None:
                wait_for((tmp_path / "begun").exists)
                named["timeout"] = 0.0
            return super().communicate(*given, **named)

    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(subprocess, "Popen", Impatient)
    run = run_on("cuda", tmp_path)
    run_section(run, "hangs", Section("hangs.py", "", limit_s=600.0), [])
    assert run.failures == ["section hangs failed"]
    assert len(run.lines) == 1


@pytest.mark.parametrize("section", [*SECTIONS.values(), *GPU_SECTIONS.values()], ids=lambda one: one.options)
def test_every_section_is_a_command_that_its_script_understands(section: Section) -> None:
    app = typer.Typer()
    app.command()(importlib.import_module(Path(section.script).stem).main)
    context = typer.main.get_command(app).make_context(section.script, section.options.split())
    assert section in SECTIONS.values() or context.params["device"] == "cuda"


def test_a_random_backbone_is_written_once_for_all_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def write(shape: str, folder: Path) -> Path:
        written.append(shape)
        (folder / shape).mkdir()
        return folder / shape

    monkeypatch.setattr(bench, "backbone_folder", write)
    for _ in range(2):
        command = bench.with_written_backbones(["a.py", "--backbone", "bert-large", "--rounds", "2"], tmp_path)
        assert command == ["a.py", "--backbone", str(tmp_path / "bert-large"), "--rounds", "2"]
    assert written == ["bert-large"]


def test_peers_that_compute_on_cpus_alone_are_left_out_on_a_gpu() -> None:
    assert {"stock-bfloat16", "peft-bfloat16", "adapterhub"} <= set(peers_on("cuda:0"))
    assert not {"onnx", "onnx-int8", "infinity"} & set(peers_on("cuda"))
    assert set(peers_on("cpu")) == {name for name in PEERS if name in ("stock-bfloat16",) or "bfloat16" not in name}


def test_peers_beside_a_gpu_borrow_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "setup").write_text(f'#!/bin/sh\necho "$1 $BORROW $PYTHON" >>{tmp_path}/made\n', encoding="utf-8")
    (tmp_path / "setup").chmod(0o755)
    monkeypatch.setattr(bench, "PEERS_FOLDER", tmp_path)
    assert peer_options(run_on("cuda", tmp_path), []) == []
    made = (tmp_path / "made").read_text(encoding="utf-8").splitlines()
    assert made == [f"{name} 1 {sys.executable}" for name in ("adapterhub", "peft", "transformers")]


def test_an_environment_that_borrows_has_what_its_python_has(tmp_path: Path) -> None:
    """Nothing is installed: packages are there already."""
    shutil.copy(SETUP, tmp_path / "setup")
    environment = os.environ | {"BORROW": "1", "PYTHON": sys.executable, "PIP_NO_INDEX": "1"}
    environment.pop("PYTHONPATH", None)
    subprocess.run([tmp_path / "setup", "transformers"], env=environment, check=True)
    code = "import sys, torch, transformers; print(sys.prefix); print(torch.__file__)"
    python = tmp_path / ".venv" / "transformers" / "bin" / "python"
    done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=True)
    prefix, torch_file = done.stdout.splitlines()
    assert Path(prefix) == tmp_path / ".venv" / "transformers"
    assert torch_file == torch.__file__
