"""What became of rows: their logits, or the fault that a failure stands for. Knows no tasks and no HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from prefixrack import errors
from prefixrack_server.messages import RowDone, RowFailure

# Not the fault of a row: the caller should send the whole request again.
RETRYABLE = (
    errors.DeadlineExceeded,
    errors.NotReady,
    errors.RegistryUnavailable,
    errors.ServerOverloaded,
    errors.RateLimited,
)
FAULT_OF_CODE: Mapping[str, type[errors.Fault]] = {
    **{kind.code: kind for kind in errors.fault_classes()},
    errors.InternalFault.code: errors.InternalFault,
}


def logits_of(answers: Iterable[RowDone]) -> list[NDArray[np.float32]]:
    return [answer.logits for answer in answers if answer.logits is not None]


def fault_of(failure: RowFailure) -> errors.Fault:
    """The fault that a row's failure stands for. Raises it where the whole request should be sent again."""
    kind = FAULT_OF_CODE.get(failure.code, errors.InternalFault)
    fault = kind(failure.detail, retry_after_s=failure.retry_after_s)
    if isinstance(fault, RETRYABLE):
        raise fault
    return fault
