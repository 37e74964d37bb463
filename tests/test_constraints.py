"""The two tested environments differ in the oldest transformers and in what it needs, and in nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
OLDER = {"transformers", "huggingface_hub"}
NEEDED = {"httpx", "httpcore"}  # the HTTP library of that hub client


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==", maxsplit=1) for line in lines)


def allowed(package: str) -> Requirement:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = [Requirement(line) for line in project["optional-dependencies"]["adapters"]]
    return next(requirement for requirement in extra if requirement.name == package)


def test_the_minimal_environment_differs_in_transformers_only() -> None:
    newest, oldest = pins("constraints.txt"), pins("constraints-min.txt")
    assert {name for name in newest | oldest if newest.get(name) != oldest.get(name)} == OLDER | NEEDED
    assert not NEEDED & newest.keys()


def test_it_is_the_oldest_transformers_that_the_project_allows() -> None:
    versions = allowed("transformers").specifier
    oldest = pins("constraints-min.txt")["transformers"]
    assert oldest in versions
    lower_bound = next(one.version for one in versions if one.operator == ">=")
    assert oldest.startswith(f"{lower_bound}."), "the tested minimum is not the one that is claimed"
    assert pins("constraints.txt")["transformers"] in versions
