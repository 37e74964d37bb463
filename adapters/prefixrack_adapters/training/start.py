"""What a run may begin with: the prefix of a finished bundle. Knows bundles and shapes; no torch."""

from __future__ import annotations

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE, check_backbone, check_files, read_tensors
from prefixrack_adapters.manifest import parse_manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.training.drafts import prefix_spec
from prefixrack_adapters.training.model import Arrays
from prefixrack_adapters.training.settings import TrainSettings


def arrays_to_start_from(settings: TrainSettings, spec: BackboneSpec) -> Arrays:
    """The bundle's tensors by name. Raises InvalidRequest where its prefix is of another shape than the run's."""
    folder = settings.init_from
    assert folder is not None, "the caller asks only where there is one"
    check_files(folder)
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
    check_backbone(manifest, spec)
    wanted = prefix_spec(settings, spec)
    if not settings.has_deep_prefix or settings.reparameterization != "none":
        raise InvalidRequest(
            "--init-from gives a run the vectors of a deep prefix: method p-tuning-v2 or multitask, without "
            f"reparameterization; seen method {settings.method!r}, reparameterization {settings.reparameterization!r}"
        )
    if manifest.prefix.tensor_shape != wanted.tensor_shape:
        raise InvalidRequest(
            f"the prefix of {folder} has the shape {list(manifest.prefix.tensor_shape)}, this run's has "
            f"{list(wanted.tensor_shape)}: set --prefix-len {manifest.prefix.prefix_len}"
        )
    return {name: tensor.values for name, tensor in read_tensors(folder / TENSORS_FILE).items()}
