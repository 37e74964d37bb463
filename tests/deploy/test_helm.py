"""The Helm chart: what it makes is what the Kustomize overlays make, and wrong values are refused."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from real_parts import program

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm"
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
OLDEST_VERSION = "1.32"
VALUES = {"single": "values.yaml", "replicas": "values-replicas.yaml", "gpu": "values-gpu.yaml"}
# What only Helm writes: whose release it is, and a checksum where Kustomize changes the name of the settings.
OF_HELM = ("app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart", "checksum/settings")

Resource = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("helm"), *arguments], capture_output=True, text=True, check=False)


def made(values: str, *more: str, release: str = "prefixrack") -> list[Resource]:
    done = helm("template", release, str(CHART), "--values", str(CHART / values), *more)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def kustomized(overlay: str) -> list[Resource]:
    command = [program("kubectl"), "kustomize", str(OVERLAYS / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def comparable(resources: list[Resource]) -> dict[str, Any]:
    """By kind, without what only one of the two tools writes: Kustomize's name of the settings has their hash in it."""
    (settings,) = [resource["metadata"]["name"] for resource in resources if resource["kind"] == "ConfigMap"]
    found = {resource["kind"]: _plain(resource, settings) for resource in resources}
    for resource in found.values():
        resource["metadata"].pop("labels", None)
    return found


def _plain(node: Any, settings: str) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value, settings) for key, value in node.items() if key not in OF_HELM}
    if isinstance(node, list):
        return [_plain(item, settings) for item in node]
    return "prefixrack" if node == settings else node


def test_the_chart_is_linted() -> None:
    for values in VALUES.values():
        done = helm("lint", "--strict", str(CHART), "--values", str(CHART / values))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", VALUES)
def test_the_chart_makes_what_the_overlay_makes(overlay: str) -> None:
    assert comparable(made(VALUES[overlay])) == comparable(kustomized(overlay))


@pytest.mark.parametrize("overlay", VALUES)
def test_what_it_makes_is_valid(overlay: str) -> None:
    for resource in made(VALUES[overlay]):
        kubernetes_validate.validate(resource, OLDEST_VERSION, strict=True)


def test_two_releases_do_not_choose_each_others_pods() -> None:
    chosen = []
    for release in ("one", "two"):
        resources = {resource["kind"]: resource for resource in made("values.yaml", release=release)}
        assert {resource["metadata"]["name"] for resource in resources.values()} == {release}
        labels = resources["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert resources["Service"]["spec"]["selector"].items() <= labels.items()
        chosen.append(resources["Service"]["spec"]["selector"])
    assert chosen[0] != chosen[1]


def test_settings_are_the_users_where_they_say_so() -> None:
    setting = "PREFIXRACK_HTTP__DRAIN_S"
    before, after = made("values.yaml"), made("values.yaml", "--set-string", f"settings.{setting}=20")
    (data,) = [resource["data"] for resource in after if resource["kind"] == "ConfigMap"]
    assert data[setting] == "20"
    checksums = [
        resource["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
        for resources in (before, after)
        for resource in resources
        if resource["kind"] == "Deployment"
    ]
    assert checksums[0] != checksums[1]  # so that the pods are new ones


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("shared.enabled=true", "blobsUrl"),
        ("shared.enabeld=true", "enabeld"),
        ("settings.PREFIXRACK_HTTP_PORT=80", "PREFIXRACK_HTTP_PORT"),
        ("shared.minReplicas=0", "minReplicas"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(wrong: str, named: str) -> None:
    flag = "--set-string" if wrong.startswith("settings") else "--set"
    done = helm("template", "prefixrack", str(CHART), flag, wrong)
    assert done.returncode != 0
    assert named in done.stderr


def test_its_version_is_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version
