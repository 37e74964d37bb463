"""What an earlier run wrote is not replaced unasked; what was broken off goes on without a question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import MANIFEST_FILE
from prefixrack_adapters.claims import claims_of, write_claims
from prefixrack_adapters.training.outputs import check_outputs, output_of
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.staging import workspace_of
from synthetic import MakeSettings
from tiny import write_random_bundle


def refusal(settings: Sequence[TrainSettings], on_leftovers: str | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check_outputs(settings, on_leftovers)
    return caught.value.detail


def test_a_bundle_is_named_with_its_first_score(make_settings: MakeSettings, backbone: Backbone) -> None:
    settings = [make_settings()]
    write_random_bundle(settings[0].output, backbone.spec, labels=("cat", "dog"), name="pets")
    output = settings[0].output
    way_on = "give another folder as --output, or --overwrite to replace it"
    assert refusal(settings) == f"{output} already holds the adapter 'pets' (text-classification): {way_on}"
    write_claims(output, claims_of({"accuracy": 0.912345, "macro_f1": 0.9}, "zoo", "dev", 40))
    scored = f"{output} already holds the adapter 'pets' (text-classification, accuracy 0.9123 on dev of zoo): {way_on}"
    assert refusal(settings) == refusal(settings, "restart") == scored
    assert refusal(settings, "resume") == f"{scored}; there is no unfinished run to resume"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["metrics.json", "curves.svg", "notes.txt"], "metrics.json, curves.svg"),  # of a baseline
        (["README.md"], "README.md"),
        (["study.svg", "study.json"], "study.json, study.svg"),
        ([MANIFEST_FILE], MANIFEST_FILE),  # empty: no manifest
    ],
)
def test_other_files_that_would_be_replaced_are_named(
    make_settings: MakeSettings, names: list[str], shown: str
) -> None:
    settings = [make_settings()]
    settings[0].output.mkdir()
    for name in names:
        (settings[0].output / name).touch()
    assert refusal(settings).startswith(f"{settings[0].output} already holds {shown}: give another folder")


def test_an_output_with_other_files_or_none_is_free(make_settings: MakeSettings) -> None:
    settings = [make_settings()]
    check_outputs(settings, None)
    settings[0].output.mkdir()
    (settings[0].output / "notes.txt").touch()
    check_outputs(settings, None)


def test_of_several_data_sets_each_folder_is_looked_at(make_settings: MakeSettings, tmp_path: Path) -> None:
    several = [make_settings(method="multitask", name=name, output=tmp_path / "out" / name) for name in ("one", "two")]
    assert output_of(several) == tmp_path / "out"
    (tmp_path / "out" / "two").mkdir(parents=True)
    (tmp_path / "out" / "README.md").touch()  # lies beside the bundles: nothing writes there
    check_outputs(several, None)
    (tmp_path / "out" / "study.json").touch()
    assert refusal(several).startswith(f"{tmp_path / 'out'} already holds study.json: ")
    (tmp_path / "out" / "two" / "metrics.json").touch()
    assert refusal(several).startswith(f"{tmp_path / 'out' / 'two'} already holds metrics.json: ")


def test_a_run_that_was_broken_off_is_not_asked_again(make_settings: MakeSettings, backbone: Backbone) -> None:
    """It had leave to replace the bundle, or was killed when it had moved its own there."""
    settings = [make_settings()]
    write_random_bundle(settings[0].output, backbone.spec, labels=("cat", "dog"))
    workspace_of(settings[0].output).mkdir()
    check_outputs(settings, "resume")
    check_outputs(settings, None)  # refused for what is left of the run, which says how to go on
    assert "--overwrite" in refusal(settings, "restart")
