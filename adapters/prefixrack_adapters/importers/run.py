"""An import from start to end: read the source, write the bundle, check it. Knows no tool and prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefixrack.errors import InvalidRequest, MalformedBundle, ProbeFailed
from prefixrack.types import FailedOutput
from prefixrack_adapters.bundle import CARD_FILE, MANIFEST_FILE, TENSORS_FILE, bundle_digest, check_bundle, write_bundle
from prefixrack_adapters.embedded import resolve_backbone
from prefixrack_adapters.importers.base import TASKS, TOWERS, Imported, Source
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec

SOURCES: Mapping[str, str] = {
    "thudm": "P-Tuning v2's own code: a checkpoint folder, or PT-Retrieval's dpr_biencoder.N",
    "peft": "PEFT: PREFIX_TUNING, PROMPT_TUNING, P_TUNING",
    "adapterhub": "AdapterHub: prefix tuning",
    "sat": "SwissArmyTransformer: GLM with P-Tuning v2",
}


@dataclass(frozen=True)
class Report:
    """What was written, for people and as JSON."""

    output: str
    digest: str
    manifest: Manifest
    num_parameters: int
    read: Mapping[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    checked_on: Any = None

    def as_json(self) -> dict[str, Any]:
        return {
            "output": self.output,
            "digest": self.digest,
            "manifest": self.manifest.model_dump(mode="json"),
            "num_parameters": self.num_parameters,
            "read": dict(self.read),
            "assumed": list(self.assumed),
            "checked_on": self.checked_on,
        }


def run_import(kind: str, folder: Path, backbone: str, out: Path, *, check: bool = False, **options: Any) -> Report:
    """Convert one adapter. `options` are those of `Source` beside its folder and backbone.

    Raises a Fault that names the file, tensor or option at fault; `out` is written only when all was read
    and checked.
    """
    _check_options(kind, folder, options)
    backbone_folder = resolve_backbone(backbone)
    source = Source(folder, BackboneSpec.load(backbone_folder), backbone_folder, **options)
    imported: Imported = import_module(f"prefixrack_adapters.importers.{kind}").read(source)
    try:
        write_checked(out, imported, source.spec)
    except OSError as error:
        raise InvalidRequest(f"--out {out} cannot be written ({error}): give a folder that can be") from None
    return Report(
        output=str(out),
        digest=bundle_digest(out),
        manifest=imported.manifest,
        num_parameters=sum(int(values.size) for values in imported.arrays.values()),
        read=imported.read,
        assumed=tuple(imported.assumed),
        checked_on=try_out(out, backbone_folder) if check else None,
    )


def _check_options(kind: str, folder: Path, options: Mapping[str, Any]) -> None:
    if kind not in SOURCES:
        raise InvalidRequest(f"source {kind!r} is not known; {', '.join(SOURCES)} are")
    if not folder.exists():
        raise MalformedBundle(f"{folder} does not exist: give the folder or file that the tool wrote")
    for option, allowed in (("task", TASKS), ("tower", TOWERS)):
        if options.get(option) not in (None, *allowed):
            raise InvalidRequest(f"--{option} is {options[option]!r}; {', '.join(allowed)} are allowed")


def write_checked(out: Path, imported: Imported, spec: BackboneSpec) -> None:
    """Write the bundle beside `out`, check it as a server would, and only then put it there. Raises a BundleFault."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as scratch:
        written = Path(scratch)
        write_bundle(written, imported.manifest, imported.arrays)
        check_bundle((written / MANIFEST_FILE).read_bytes(), written / TENSORS_FILE, spec, "float32")
        out.mkdir(exist_ok=True)
        if (out / MANIFEST_FILE).exists():  # an import has no card: that of the bundle it replaces must not stay
            (out / CARD_FILE).unlink(missing_ok=True)
        for name in (MANIFEST_FILE, TENSORS_FILE):
            (written / name).replace(out / name)


def try_out(bundle: Path, backbone_folder: Path) -> Any:
    """Run the written bundle once on its task's example; returns the input and the output. Raises ProbeFailed."""
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone
    from prefixrack_adapters.tasks import build_task

    backbone = Backbone.load(backbone_folder)
    adapter = Adapter.load(bundle, backbone.device, backbone.dtype)
    example = build_task(adapter.manifest, backbone.spec, backbone.tokenizer).example()
    (output,) = backbone.predict(adapter, [example])
    if isinstance(output, FailedOutput):
        raise ProbeFailed(
            f"the imported adapter fails on its example ({output.error.code}: {output.error.message}): check that the "
            "source is whole"
        )
    return {"input": example, "output": output.model_dump(mode="json", exclude_none=True)}
