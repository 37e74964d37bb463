"""Any bytes in place of a bundle: the reader takes them or raises a fault that has a name, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle_mutations import CHANGED, RANDOM, Files, Mutation
from prefixrack.errors import BundleFault
from prefixrack_adapters.bundle import check_contents
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from tiny import write_random_bundle

FUZZ = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def files(tmp_path: Path, spec: BackboneSpec) -> Files:
    return Files.of(write_random_bundle(tmp_path / "bundle", spec))


def read(files: Files, spec: BackboneSpec) -> Manifest | BundleFault:
    """Whatever else is raised fails the test."""
    try:
        return check_contents(files.manifest, files.tensors, spec, "float32")
    except BundleFault as fault:
        outcome = fault
    assert 0 < len(outcome.detail) < 2000
    return outcome


def test_the_files_themselves_are_taken(files: Files, spec: BackboneSpec) -> None:
    assert isinstance(read(files, spec), Manifest)


@pytest.mark.parametrize("mutation", RANDOM)
@FUZZ
@given(data=st.data())
def test_random_bytes(files: Files, spec: BackboneSpec, mutation: Mutation, data: st.DataObject) -> None:
    assert isinstance(read(mutation(files, data), spec), BundleFault)


@pytest.mark.parametrize("mutation", CHANGED)
@FUZZ
@given(data=st.data())
def test_changed_bundles(files: Files, spec: BackboneSpec, mutation: Mutation, data: st.DataObject) -> None:
    read(mutation(files, data), spec)
