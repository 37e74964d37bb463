"""The version of the installed distribution. Knows nothing else."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "prefixrack"
UNINSTALLED = "0+uninstalled"


def installed_version() -> str:
    """The distribution's version; a marked one when the source tree runs without being installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return UNINSTALLED
