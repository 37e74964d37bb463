"""The two tested environments differ in the oldest transformers and in what it needs, and in nothing else."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OLDER = {"transformers", "huggingface_hub"}
NEEDED = {"httpx", "httpcore"}  # the HTTP library of that hub client

INSTALLERS = {"pip", "setuptools"}  # a virtual environment comes with them, and `pip freeze` leaves them out


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


def needed(extra: str) -> set[str]:
    """What the extra of this project comes to, here and now; a pin in its parent's own metadata needs none of ours."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [*project["dependencies"], f"prefixrack[{extra}]"]
    found: set[str] = set()
    seen: set[str] = set()
    while waiting:
        line = waiting.pop()
        requirement = Requirement(line)
        if line in seen:
            continue
        seen.add(line)
        name = canonicalize_name(requirement.name)
        if name == "prefixrack":
            lists = [project["optional-dependencies"][part] for part in requirement.extras]
        else:
            found.add(name)
            lists = [requires(name, part) for part in ("", *requirement.extras)]
        waiting += [line for lines in lists for line in lines if is_wanted(line)]
    return found


def is_wanted(line: str) -> bool:
    requirement = Requirement(line)
    is_pinned = any(one.operator == "==" and "*" not in one.version for one in requirement.specifier)
    return not is_pinned and (requirement.marker is None or requirement.marker.evaluate())


def requires(name: str, extra: str) -> list[str]:
    """The requirements of an installed distribution that hold for one of its extras, or for none."""
    found = []
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is not None:
            if not requirement.marker.evaluate({"extra": extra}):
                continue
            requirement.marker = None
        found.append(str(requirement))
    return found


def test_everything_that_the_tests_need_is_pinned() -> None:
    pinned = {canonicalize_name(name) for name in pins("constraints.txt")}
    assert sorted(needed("dev") - pinned - INSTALLERS) == []
