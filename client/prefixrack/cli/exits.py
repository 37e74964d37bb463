"""The exit codes of the command, and which error gives which. Scripts rely on these numbers: never renumber."""

from __future__ import annotations

from enum import IntEnum

from prefixrack.errors import APIConnectionError, APIStatusError, BundleFault, Fault, PrefixrackError


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1  # an input, an item or a bundle is at fault, or something unexpected happened
    USAGE = 2  # the command cannot run as it was given: arguments, files, a missing extra
    CONNECTION = 3  # no answer from the server
    REFUSED = 4  # the server refused: any 4xx
    SERVER = 5  # the server failed: any 5xx


def exit_code_of(error: PrefixrackError) -> ExitCode:
    match error:
        case APIStatusError(code="all_inputs_failed"):
            return ExitCode.FAILED
        case APIStatusError(status=status):
            return ExitCode.SERVER if status >= 500 else ExitCode.REFUSED
        case APIConnectionError():
            return ExitCode.CONNECTION
        case BundleFault():
            return ExitCode.FAILED
        case Fault():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED
