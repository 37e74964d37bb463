"""What stands in for a program when the documentation's commands run: `python docs_stand_ins.py PROGRAM ARGUMENTS…`.

`prefixrack` is the real command, on the tiny server, as far as it can be; each command that is parsed only, and each
program that is not started, is in a table here with the reason. What is in no table is a command that the shell does
not find.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

# Programs that run as they are.
RUN = ("cat", "cp", "mkdir", "tar")

# Commands of `prefixrack` that are parsed only: by the real parser, with the settings of the environment read.
SERVES = "serves until it is stopped; serve_process.py starts it in many tests"
NEEDS_FILES = "reads another tool's files; adapters/test_importer_*.py"
PARSED_COMMANDS: Mapping[str, str] = {
    "serve": SERVES,
    "demo": SERVES,
    "db": "needs a database of its own; server/test_registry.py",
    "backup": "reads a server's state from its folder; server/test_backup.py",
    "restore": "fills a registry in a folder; server/test_backup.py",
    "playground": "asks at a terminal; client/test_cli_live.py",
    "top": "draws until it is stopped; client/test_cli_live.py",
    "bench": "half a minute of load; client/test_cli_live.py",
}
GUIDE_RUNS_IT = "adapters/test_training_guide.py and test_five_commands.py run it"
MANY_EPOCHS = "trains for many epochs on data that is not here; test_examples.py"
PARSED_ON_PAGES: Mapping[tuple[str, str], str] = {
    **{("docs/training.md", name): GUIDE_RUNS_IT for name in ("train", "evaluate", "push", "predict", "promote")},
    **{
        (f"adapters/examples/{name}/README.md", "train"): MANY_EPOCHS
        for name in ("cause", "emotions", "intent", "ner", "nli", "qa")
    },
    ("docs/operations.md", "evaluate"): "names a bundle of the reader's; adapters/test_commands_evaluate.py",
    ("adapters/README.md", "import"): NEEDS_FILES,
    ("client/README.md", "keys rotate"): "names a key of the reader's; server/test_keys.py",
}
SOURCE = re.compile(r"\w+://")  # fetched by the server, if its settings allow it: server/test_sources.py

# Training is made small: a backbone of two layers learns nothing, so its claims are nothing to ask for.
TINY_TRAINING = ("--device", "cpu")
TINY_RUN = ("--epochs", "1", "--prefix-len", "2")
TRAINED_HERE = ("README.md", "docs/quickstart.md")


class WrongCommand(Exception):
    """A command of the documentation that would not work."""


def check_make(arguments: list[str]) -> None:
    """Targets are the Makefile's."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (argument for argument in arguments if "=" not in argument):
        if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
            raise WrongCommand(f"the Makefile has no target {target!r}")


def check_pip(arguments: list[str]) -> None:
    """Extras are the project's, files are there, and other packages are pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {canonicalize_name(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    subcommand, *rest = arguments
    assert subcommand == "install"
    for before, argument in zip(["", *rest], rest, strict=False):
        if before == "--constraint":
            _must_exist(ROOT / argument)
        elif not argument.startswith("-"):
            requirement = Requirement(argument.replace(".[", "prefixrack["))
            unknown = requirement.extras - project["optional-dependencies"].keys()
            if unknown or (requirement.name != "prefixrack" and canonicalize_name(requirement.name) not in pins):
                raise WrongCommand(f"{argument!r} is neither the project's nor pinned")


def check_docker(arguments: list[str]) -> None:
    """The files that it reads are there, and a target is a stage."""
    if arguments[0] == "compose":
        _must_exist(Path("compose.yaml"))
    elif arguments[0] == "build":
        _must_exist(ROOT / arguments[-1] / "Dockerfile")


def check_serve(arguments: list[str]) -> None:
    """Ray's `serve run`: the application is a function of that module."""
    folder = arguments[arguments.index("--app-dir") + 1]
    module, _, function = next(argument for argument in arguments if ":" in argument).partition(":")
    tree = ast.parse((ROOT / folder / f"{module}.py").read_text(encoding="utf-8"))
    if function not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
        raise WrongCommand(f"{folder}/{module}.py has no function {function}")


def check_python(arguments: list[str]) -> None:
    """The script is there, and its options stand in it: as strings, or as parameters that typer makes options of."""
    script, *options = arguments
    _must_exist(ROOT / script)
    nodes = list(ast.walk(ast.parse((ROOT / script).read_text(encoding="utf-8"))))
    known = {node.value for node in nodes if isinstance(node, ast.Constant)}
    known |= {f"--{node.arg.replace('_', '-')}" for node in nodes if isinstance(node, ast.arg)}
    unknown = [option for option in options if option.startswith("--") and option not in known]
    if unknown:
        raise WrongCommand(f"{script} has no option {', '.join(unknown)}")


def check_helm(arguments: list[str]) -> None:
    """The chart is there, with the values that are named."""
    subcommand, _release, chart, *rest = arguments
    assert subcommand == "install"
    _must_exist(ROOT / chart / "Chart.yaml")
    for option, value in pairwise(rest):
        if option == "--values":
            _must_exist(ROOT / value)


def check_tensorboard(arguments: list[str]) -> None:
    assert arguments[0] == "--logdir"


# Programs that are not started, and what is looked at instead.
CHECKED: Mapping[str, tuple[Callable[[list[str]], None], str]] = {
    "make": (check_make, "makes virtual environments"),
    "pip": (check_pip, "installs packages"),
    "docker": (check_docker, "builds images; deploy/test_container.py looks at the Dockerfile"),
    "serve": (check_serve, "starts Ray; deploy/test_ray.py"),
    "helm": (check_helm, "needs a cluster; deploy/test_helm.py"),
    "python": (check_python, "benchmarks take minutes; benchmarks/test_bench.py"),
    "tensorboard": (check_tensorboard, "serves until it is stopped"),
}


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise WrongCommand(f"there is no {path}")


def is_parsed_only(page: str, arguments: list[str]) -> bool:
    names = (arguments[0], " ".join(arguments[:2]))
    if any(name in PARSED_COMMANDS or (page, name) in PARSED_ON_PAGES for name in names):
        return True
    return arguments[0] == "push" and SOURCE.match(arguments[1]) is not None


def scaled_down(page: str, arguments: list[str], backbone: str) -> list[str]:
    """The same command in seconds: see TINY_TRAINING."""
    name = arguments[0]
    if name in ("train", "evaluate"):
        return [*arguments, "--backbone", backbone, *TINY_TRAINING, *(TINY_RUN if name == "train" else ())]
    if name == "promote" and page in TRAINED_HERE:
        return [re.sub(r">=.*", ">=0", argument) for argument in arguments]
    return arguments


def prefixrack(arguments: list[str]) -> None:
    from prefixrack.cli.app import main
    from prefixrack_server.config import load_config

    page = os.environ["DOCS_PAGE"]
    if is_parsed_only(page, arguments):
        import typer.core

        load_config({})  # the settings of the environment are ones that a server knows
        typer.core.TyperCommand.invoke = lambda *_: None  # type: ignore[method-assign]
    else:
        arguments = scaled_down(page, arguments, os.environ["DOCS_BACKBONE"])
    sys.argv = ["prefixrack", *arguments]
    main()


if __name__ == "__main__":
    program, *given = sys.argv[1:]
    try:
        if program == "prefixrack":
            prefixrack(given)
        else:
            CHECKED[program][0](given)
    except WrongCommand as error:
        sys.exit(f"{program} {' '.join(given)}: {error}")
