"""What a release consists of: archives that are complete and the same each time, and a base install without torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from real_parts import program

ROOT = Path(__file__).parents[1]
EPOCH = "1700000000"
PACKAGES = ("prefixrack", "prefixrack_adapters", "prefixrack_server")
# Commands of other packages: the extra that brings each, and arguments with which it would start work.
EXTRA_OF_COMMAND = {
    "serve": ("server", ["--backbone", "."]),
    "db": ("server", ["upgrade"]),
    "backup": ("server", ["all.tar"]),
    "restore": ("server", ["all.tar"]),
    "demo": ("demo", []),
    "train": ("train", ["--task", "text-classification", "--train", "{data}", "--backbone", "bert", "-o", "{out}"]),
    "evaluate": ("train", ["{bundle}", "--data", "{data}", "--backbone", "bert"]),
    "import": ("adapters", ["peft", "{bundle}", "--backbone", "bert", "--out", "{out}"]),
}

# Stands in for an environment with the base install alone: what other distributions brought cannot be imported.
BASE_INSTALL = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, {site!r})
"""
IMPORT_ALL = """
import importlib, pkgutil, prefixrack
assert prefixrack.__file__.startswith({site!r}), prefixrack.__file__
names = [module.name for module in pkgutil.walk_packages(prefixrack.__path__, "prefixrack.")]
assert "prefixrack.cli.app" in names, names
for name in names:
    if name != "prefixrack.testing":  # pytest loads it, where pytest is
        importlib.import_module(name)
prefixrack.Client, prefixrack.AsyncClient
"""
PLUGIN_IS_LOADED = """
def test_it(pytestconfig):
    plugin = pytestconfig.pluginmanager.get_plugin("prefixrack.testing")
    assert plugin.__file__.startswith({site!r})
"""
RUN = """
from prefixrack.cli.app import main
sys.argv = ["prefixrack", *{arguments!r}]
main()
"""


def build(out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options, str(ROOT)]
    done = subprocess.run(
        command, env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def the(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and the wheel that was built from what the sdist holds."""
    out = tmp_path_factory.mktemp("archives")
    build(out)
    return out


@pytest.fixture(scope="module")
def site(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files as an installer lays them out."""
    out = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(the(archives, "*.whl")) as wheel:
        wheel.extractall(out)
    return out


def test_two_builds_are_the_same_bytes_whether_from_the_tree_or_from_the_sdist(archives: Path, tmp_path: Path) -> None:
    build(tmp_path, "--sdist", "--wheel")  # both from the tree
    for pattern in ("*.tar.gz", "*.whl"):
        assert sha256(the(tmp_path, pattern)) == sha256(the(archives, pattern)), pattern


def test_the_sdist_holds_what_building_testing_and_reading_need(archives: Path) -> None:
    with tarfile.open(the(archives, "*.tar.gz")) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = [
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "constraints.txt",
        "Makefile",
        ".ci/run",
        "tests/test_packaging.py",
    ]
    wanted += [f"{room}/README.md" for room in ("client", "adapters", "server")]
    assert not set(wanted) - held
    assert not [name for name in held if re.search(r"(^|/)(\.git|\.venv|__pycache__|build|dist)/", name)]


def test_every_package_is_typed_and_licensed(archives: Path) -> None:
    with zipfile.ZipFile(the(archives, "*.whl")) as wheel:
        held = set(wheel.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= held
    assert {name.partition("/")[0] for name in held if ".dist-info" not in name} == set(PACKAGES)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)


def test_the_wheel_brings_the_examples_that_the_demo_serves(site: Path) -> None:
    """Each with its card, which says what licence its data had."""
    examples = ROOT / "adapters" / "examples"
    wanted = {path.relative_to(examples) for path in examples.glob("*/*") if (path.parent / "adapter.json").exists()}
    installed = site / "prefixrack_adapters" / "examples"
    assert {path.relative_to(installed) for path in installed.glob("*/*")} == wanted
    assert {path.name for path in wanted} >= {"adapter.json", "adapter.safetensors", "README.md"}
    code = "from prefixrack_server.demo import _examples; print(_examples())"
    for place, found in ((site, installed), (ROOT, examples)):
        rooms = [place] if place == site else [place / room for room in ("client", "adapters", "server")]
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(room) for room in rooms]!r}; {code}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert Path(done.stdout.strip()) == found


def test_the_index_would_take_the_archives(archives: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, archives.iterdir())],
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def base_distributions(site: Path) -> set[str]:
    """What `pip install prefixrack` brings, by the wheel's own metadata; extras are not asked for."""
    (own,) = metadata.distributions(name="prefixrack", path=[str(site)])
    waiting, found = [Requirement(line) for line in own.requires or ()], {"prefixrack"}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += [Requirement(line) for line in metadata.requires(name) or ()]
    return found


def other_modules(site: Path) -> Iterator[str]:
    """Top-level modules of this environment that the base install does not bring."""
    base = base_distributions(site)
    for module, owners in metadata.packages_distributions().items():
        if not {canonicalize_name(owner) for owner in owners} & base:
            yield module


def run_as_base_install(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    setting = BASE_INSTALL.format(forbidden=sorted(other_modules(site)), site=str(site))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", setting + code], env=environment, capture_output=True, text=True, check=False
    )


def test_the_base_install_has_no_torch_and_imports_all_of_the_client(site: Path) -> None:
    base = base_distributions(site)
    assert {"httpx2", "pydantic", "typer", "rich"} <= base
    assert not base & {"torch", "transformers", "numpy", "fastapi"}
    assert {"torch", "numpy", "fastapi", "pytest"} <= set(other_modules(site))
    done = run_as_base_install(site, IMPORT_ALL.format(site=str(site)))
    assert done.returncode == 0, done.stderr


def test_the_base_install_lists_every_command(site: Path) -> None:
    done = run_as_base_install(site, RUN.format(arguments=["--help"]))
    assert done.returncode == 0, done.stderr
    assert not [name for name in EXTRA_OF_COMMAND if f" {name} " not in done.stdout]


@pytest.mark.parametrize("command", EXTRA_OF_COMMAND)
def test_a_missing_extra_is_named_with_the_line_that_installs_it(site: Path, tmp_path: Path, command: str) -> None:
    extra, arguments = EXTRA_OF_COMMAND[command]
    places = {"data": tmp_path / "data.jsonl", "bundle": tmp_path / "bundle", "out": tmp_path / "out"}
    places["data"].write_text('{"text": "a", "label": "yes"}\n')
    places["bundle"].mkdir()
    given = [argument.format_map(places) for argument in arguments]
    done = run_as_base_install(site, RUN.format(arguments=[command, *given]))
    assert done.returncode == 2, done.stderr
    assert f"pip install 'prefixrack[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_of_the_wheel_has_such_a_line(site: Path) -> None:
    (own,) = metadata.distributions(name="prefixrack", path=[str(site)])
    assert {entry.name for entry in own.entry_points.select(group="prefixrack.commands")} == set(EXTRA_OF_COMMAND)


def test_pytest_finds_the_plugin_of_the_wheel(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PLUGIN_IS_LOADED.format(site=str(site)))
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:asyncio",
            "-p",
            "no:cacheprovider",
            str(tmp_path),
        ],
        env=os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_bill_of_materials_lists_every_pin(tmp_path: Path) -> None:
    out = tmp_path / "sbom.json"
    command = ["-W", "ignore::UserWarning", "-m", "cyclonedx_py", "requirements", str(ROOT / "constraints.txt")]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--output-file", str(out)]
    subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    bill = json.loads(out.read_text())
    assert bill["metadata"]["component"]["name"] == "prefixrack"
    pins = {line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {f"{part['name']}=={part['version']}" for part in bill["components"]} == pins


def test_the_workflow_runs_what_developers_run() -> None:
    path = ROOT / ".github" / "workflows" / "ci.yml"
    done = subprocess.run(
        [program("check-jsonschema", "the extra `dev`"), "--builtin-schema", "vendor.github-workflows", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    jobs = yaml.safe_load(path.read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert [step["run"] for step in jobs["test"]["steps"] if "run" in step] == [".ci/run"]
    assert {step["uses"].partition("@")[2][40:] for step in steps if "uses" in step} == {""}, "pin actions by commit"
