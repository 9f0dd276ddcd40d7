"""Client and workers must run the same versions, so that they give the same numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from higgsnb import provenance
from higgsnb.errors import VersionError

COMMUNICATION = ("python", "dask", "distributed", "msgpack", "cloudpickle")
"""What client, scheduler and workers of a Dask cluster need to understand each other."""


@cache
def installed_versions() -> dict[str, str]:
    """Return the versions that must agree for equal results: Python, libraries, and the code that counts."""
    code = provenance.sources_sha256(*provenance.RESULT_MODULES)[:12]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": python, **provenance.libraries(), "higgsnb": f"{provenance.version()} (code {code})"}


def check(mine: dict[str, str], theirs: dict[str, str] | BaseException, host: str) -> None:
    """Raise VersionError, with the packages and both versions, if a host runs other versions than the client.

    ``theirs`` may be the error with which the host answered. A package that the host does not report is not compared.
    """
    if isinstance(theirs, BaseException):
        raise VersionError(f"{host} cannot run this package: {type(theirs).__name__}: {theirs}")
    names = [name for name in mine if theirs.get(name) not in (None, mine[name])]
    if names:
        found = ", ".join(f"{name} {mine[name]} here and {theirs[name]} there" for name in names)
        raise VersionError(f"{host} has other versions than this process: {found}")


def check_cluster_versions(
    reported: Mapping[str, dict[str, Any]], answers: Mapping[str, dict[str, str] | BaseException] | None = None
) -> None:
    """Raise VersionError for the first host of a Dask cluster that runs other versions than this process.

    ``reported`` are the packages that Dask reports for each host, by its name; ``answers`` what `installed_versions`
    returned on each worker, or the error that it raised there, by the worker's address.
    """
    from distributed.versions import get_versions

    mine = _of_communication(get_versions()["packages"])
    for host, packages in reported.items():
        check(mine, _of_communication(packages), host)
    for worker, theirs in (answers or {}).items():
        check(installed_versions(), theirs, f"worker {worker}")


def _of_communication(packages: dict[str, Any]) -> dict[str, str]:
    """Select the packages of `COMMUNICATION`; of Python only the first two numbers."""
    found = {name: str(packages[name]) for name in COMMUNICATION if packages.get(name) is not None}
    if "python" in found:
        found["python"] = ".".join(found["python"].split(".")[:2])
    return found
