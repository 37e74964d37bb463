"""The manifests: valid to the last field, and in agreement with the server about probes, settings and time to end."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fastapi.routing import APIRoute

from prefixrack_server.config import ServerConfig, load_config
from prefixrack_server.metrics import GAUGES
from prefixrack_server.routes import health
from real_parts import program

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
OLDEST_VERSION = "1.32"  # the oldest that knows every field: `sleep` in preStop is older as a beta
OVERLAYS = ("single", "replicas", "gpu")
NEEDS_SHARED_STATE = ("replicas", "gpu")

Resource = dict[str, Any]


@cache
def built(overlay: str) -> list[Resource]:
    """The resources of an overlay, as kubectl would apply them."""
    return _kustomize(KUBERNETES / "overlays" / overlay)


def _kustomize(folder: Path) -> list[Resource]:
    command = [program("kubectl"), "kustomize", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def with_affinity(tmp_path: Path) -> list[Resource]:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "routed"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        "kind: Kustomization\nresources: [../replicas]\ncomponents: [../../components/affinity]\n"
    )
    return _kustomize(overlay)


def the(resources: list[Resource], kind: str, name: str = "prefixrack") -> Resource:
    (found,) = [one for one in resources if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pod(resources: list[Resource], name: str = "prefixrack") -> Resource:
    spec: Resource = the(resources, "Deployment", name)["spec"]["template"]["spec"]
    return spec


def settings(resources: list[Resource], environment: pytest.MonkeyPatch) -> ServerConfig:
    """What the server of an overlay would run with."""
    server = pod(resources)["containers"][0]
    name = server["envFrom"][0]["configMapRef"]["name"]
    given = dict(the(resources, "ConfigMap", name)["data"])
    given |= {entry["name"]: entry.get("value", "postgresql://u:p@db/x") for entry in server.get("env", ())}
    for key, value in given.items():
        environment.setenv(key, value)
    return load_config({"http": {"host": "0.0.0.0"}})


@pytest.mark.parametrize("path", sorted(KUBERNETES.glob("base/*.yaml")), ids=lambda path: path.stem)
def test_each_file_of_the_base_is_valid_by_itself(path: Path) -> None:
    for resource in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if resource["kind"] not in ("Kustomization", "Deployment", "Service"):  # these get their selectors later
            kubernetes_validate.validate(resource, OLDEST_VERSION, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid(overlay: str) -> None:
    for resource in built(overlay):
        kubernetes_validate.validate(resource, OLDEST_VERSION, strict=True)


def test_the_router_is_valid(tmp_path: Path) -> None:
    resources = with_affinity(tmp_path)
    for resource in resources:
        kubernetes_validate.validate(resource, OLDEST_VERSION, strict=True)
    backends = the(resources, "Service", "prefixrack-replicas")["spec"]["selector"]
    assert backends.items() <= the(resources, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    router = the(resources, "Deployment", "prefixrack-router")["spec"]["template"]["metadata"]["labels"]
    assert not backends.items() <= router.items()


def test_haproxy_accepts_the_routers_configuration() -> None:
    haproxy = program("haproxy", "apt-get install haproxy")
    path = KUBERNETES / "components" / "affinity" / "haproxy.cfg"
    result = subprocess.run([haproxy, "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_are_settings_and_the_time_to_end_is_enough(overlay: str, no_settings: pytest.MonkeyPatch) -> None:
    spec = pod(built(overlay))
    config = settings(built(overlay), no_settings)
    lead_s = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    end_s = config.http.drain_s + config.http.shutdown_grace_s + config.engine.drain_timeout_s
    assert lead_s + end_s < spec["terminationGracePeriodSeconds"]
    ready = spec["containers"][0]["readinessProbe"]
    assert config.http.drain_s > ready["periodSeconds"] * ready["failureThreshold"]


@pytest.mark.parametrize("overlay", NEEDS_SHARED_STATE)
def test_replicas_share_their_state(overlay: str, no_settings: pytest.MonkeyPatch) -> None:
    config = settings(built(overlay), no_settings)
    assert config.registry.database_url is not None
    assert config.registry.blobs_url is not None


def test_probes_ask_routes_that_are_there() -> None:
    served = {route.path for route in health.router.routes if isinstance(route, APIRoute)}
    (container,) = pod(built("single"))["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in served


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_runs_with_rights_it_does_not_need(overlay: str) -> None:
    spec = pod(built(overlay))
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["automountServiceAccountToken"] is False
    for container in [*spec["containers"], *spec.get("initContainers", ())]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert ":" in container["image"]


def test_the_autoscaler_looks_at_a_metric_that_is_there() -> None:
    (metric,) = the(built("replicas"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in {f"prefixrack_{gauge}" for gauge, *_ in GAUGES}
    adapter = yaml.safe_load((KUBERNETES / "overlays" / "replicas" / "prometheus-adapter.yaml").read_text())
    assert adapter["rules"]["custom"][0]["seriesQuery"].startswith(f"{name}{{")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_policy_and_the_budget_are_about_these_pods(overlay: str) -> None:
    resources = built(overlay)
    labels = the(resources, "Deployment")["spec"]["template"]["metadata"]["labels"]
    chosen = the(resources, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert chosen
    assert chosen.items() <= labels.items()
    for budget in (one for one in resources if one["kind"] == "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
