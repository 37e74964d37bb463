"""Answers without a server: inputs → rows → packs → outputs for one adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prefixrack.errors import Fault, InputFault, NonfiniteOutput
from prefixrack.types import FailedOutput, InputError, Output, Parameters
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.bundle import check_backbone
from prefixrack_adapters.packing import packs_of
from prefixrack_adapters.rows import Row
from prefixrack_adapters.tasks import Prepared, as_inputs, build_task

if TYPE_CHECKING:
    from prefixrack_adapters.adapter import Adapter


def predict(
    backbone: Backbone,
    adapter: Adapter,
    inputs: Any,
    parameters: Parameters | None,
    max_pack_tokens: int,
    advance: Callable[[int], None] | None = None,
) -> list[Output | FailedOutput]:
    """One output per input, in order. `advance` hears of finished rows (for a progress bar).

    Raises BackboneMismatch where the adapter belongs to another backbone, InvalidRequest for wrong parameters.
    """
    check_backbone(adapter.manifest, backbone.spec)
    task = build_task(adapter.manifest, backbone.spec, backbone.tokenizer)
    asked = parameters or Parameters()
    prepared = task.prepare_many(as_inputs(inputs), asked)
    rows = rows_of(backbone, prepared)
    logits = compute_all(backbone, [PackRow(row, adapter) for row in rows], max_pack_tokens, advance)
    return finish_all(task, prepared, logits, asked)


def rows_of(backbone: Backbone, prepared: Sequence[Prepared | InputFault]) -> list[Row]:
    """All rows of what could be prepared, checked."""
    rows = [row for one in prepared if isinstance(one, Prepared) for row in one.rows]
    for row in rows:
        backbone.check(row)
    return rows


def finish_all(
    task: Any, prepared: Sequence[Prepared | InputFault], logits: Iterable[Any], parameters: Parameters
) -> list[Output | FailedOutput]:
    """Outputs from the logits of `rows_of`, in order."""
    left = iter(logits)
    return [
        failed(one) if isinstance(one, InputFault) else _finish(task, one, [next(left) for _ in one.rows], parameters)
        for one in prepared
    ]


def failed(fault: Fault) -> FailedOutput:
    return FailedOutput(error=InputError(code=fault.code, message=fault.detail))


def _finish(task: Any, prepared: Prepared, logits: list[Any], parameters: Parameters) -> Output | FailedOutput:
    if not all(np.isfinite(row).all() for row in logits):
        return failed(NonfiniteOutput("the adapter's logits for this input are not finite: retrain or re-export it"))
    output: Output = task.finish(prepared, logits, parameters)
    return output


def compute_all(
    backbone: Backbone,
    entries: Sequence[PackRow],
    max_pack_tokens: int,
    advance: Callable[[int], None] | None = None,
) -> list[Any]:
    """Logits of all rows, computed longest first so that packs fill evenly, handed back in the order given."""
    rows = [entry.row for entry in entries]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    results: list[Any] = [None] * len(rows)
    for members in packs_of(rows, order, max_pack_tokens):
        computed = backbone.compute([entries[index] for index in members])
        for index, logits in zip(members, computed, strict=True):
            results[index] = logits
        if advance is not None:
            advance(len(members))
    return results
