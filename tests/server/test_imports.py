"""What a server that is ready and has answered has not imported: each of these takes longer than all of its own code.

Other families of backbones need the stock models of transformers; BERT's form, the embedded default's, does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prefixrack_adapters.spec import BackboneSpec
from serve_process import free_port
from tiny import FAMILIES, write_backbone, write_random_bundle

HEAVY = (
    "accelerate",
    "azure",
    "boto3",
    "datasets",
    "matplotlib",
    "pandas",
    "peft",
    "prefixrack_adapters.importers",
    "prefixrack_adapters.training",
    "PIL",
    "psutil",
    "ray",
    "scipy",
    "sklearn",
    "sympy",
    "tensorboard",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "transformers",
    "triton",
)
SERVE = """
import json, os, signal, sys, threading
from urllib.request import Request, urlopen
from prefixrack_server.commands import run
from prefixrack_server.config import load_config

backbone, adapters, state, port = sys.argv[1:]

def ask():
    url, headers = f"http://127.0.0.1:{port}/v1/first/predict", {"Content-Type": "application/json"}
    try:
        answer = json.load(urlopen(Request(url, b'{"inputs": "the cat sat"}', headers)))
        print(json.dumps({"outputs": answer["outputs"], "modules": sorted(sys.modules)}), flush=True)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

sections = {
    "http": {"port": int(port), "auth": "none", "log_level": "warning"},
    "backbone": {"path": backbone, "device": "cpu"},
    "registry": {"state_dir": state, "adapters_dir": adapters},
}
run(load_config(sections), on_ready=lambda: threading.Thread(target=ask).start())
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_server_imports_nothing_heavy_to_answer(family: str, tmp_path: Path) -> None:
    folder = write_backbone(tmp_path / "backbone", family)
    write_random_bundle(tmp_path / "bundles" / "first", BackboneSpec.load(folder), name="first")
    arguments = [str(folder), str(tmp_path / "bundles"), str(tmp_path / "state"), str(free_port())]
    done = subprocess.run([sys.executable, "-c", SERVE, *arguments], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert "score" in seen["outputs"][0]
    assert "torch" in seen["modules"]
    assert not set(HEAVY) & set(seen["modules"])
