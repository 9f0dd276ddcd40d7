"""What a cluster should be: `ClusterSpec`, made and checked from what a user gives."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import util
from inspect import Parameter, signature
from itertools import chain
from math import inf
from numbers import Integral, Real
from typing import Any, Self

from higgsnb.errors import OptionError, did_you_mean
from higgsnb.redaction import redacted_repr
from higgsnb.text import shown

KINDS = ("auto", "local", "kubernetes", "gateway", "slurm", "htcondor")
DEFAULT_WORKERS = 2
MOST = 10_000
"""Largest number of workers, and of cores of one worker; more is a typing error."""
BATCH = {
    "slurm": ("SLURMCluster", ("sbatch", "scancel")),
    "htcondor": ("HTCondorCluster", ("condor_submit", "condor_rm")),
}
"""The class of dask-jobqueue, and the commands that it runs."""
GATEWAY_OPTIONS = ("address", "proxy_address", "auth")
KUBERNETES_OPTIONS = ("environment", "pull_secrets", "user_id", "disk")
WORKER_DISK = "10GiB"
"""Default of the option ``disk`` of Kubernetes: the temporary storage of a worker, for the files that it downloads."""
OWN_OPTIONS = {
    *("n_workers", "threads_per_worker", "memory_limit", "host", "dashboard_address", "worker_dashboard_address"),
    *("processes", "death_timeout", "protocol", "security", "asynchronous"),
}
"""Options of Dask's classes that higgsnb sets itself."""
SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGT", start=1)
}


@dataclass(frozen=True, kw_only=True, repr=False)
class ClusterSpec:
    """What a cluster should be; checked when it is made.

    ``kind`` is one of `KINDS`; ``workers`` how many, 0 for the default of the kind, each with ``cores`` threads and
    ``memory`` bytes; ``image`` and ``namespace`` are for Kubernetes, empty for those of this session. After
    ``idle_timeout`` seconds without work the cluster removes itself; within ``deadline`` seconds at least one worker
    must be ready. ``options`` are further ones of the kind.

    Raises
    ------
    OptionError
        If something is out of range, or an option is unknown.
    """

    kind: str = "auto"
    workers: int = 0
    cores: int = 1
    memory: int = 2 * 1024**3
    image: str = ""
    namespace: str = ""
    idle_timeout: int = 900
    deadline: float = 120
    options: Mapping[str, Any] = field(default_factory=dict)

    __repr__ = redacted_repr

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"kind = {self.kind!r}; expected one of {', '.join(KINDS)}", "Choose one of these.")
        check_workers("workers", self.workers, least=0)
        check_number("cores", self.cores, most=MOST)
        check_number("idle_timeout", self.idle_timeout)
        check_number("deadline", self.deadline, kind=Real)
        if self.options and self.kind in {"auto", "kubernetes"}:
            secrets, variables = self.options.get("pull_secrets", []), self.options.get("environment", {})
            if not isinstance(secrets, list | tuple) or not all(isinstance(name, str) for name in secrets):
                message = f"pull_secrets = {secrets!r}; expected a list of names"
                raise OptionError(message, "For instance ['my-registry'].")
            if not isinstance(variables, Mapping) or not all(isinstance(x, str) for x in chain(*variables.items())):
                raise OptionError("environment must be a dict of str to str", "For instance {'OMP_NUM_THREADS': '1'}.")
            check_number("user_id", self.options.get("user_id", 1))
            parse_memory(self.options.get("disk", WORKER_DISK), "disk")
        if self.options or self.kind in BATCH:
            _check_names(self.kind, self.options)

    @classmethod
    def parse(cls, kind: str = "auto", **given: Any) -> Self:
        """Return the spec for the options of `cluster.launch`, which take ``memory`` also as a text like ``"2GiB"``."""
        named = {item.name for item in fields(cls)} - {"options"}
        own = {name: value for name, value in given.items() if name in named}
        if "workers" in own:
            check_workers("workers", own["workers"], least=1)
        if "memory" in own:
            own["memory"] = parse_memory(own["memory"])
        return cls(kind=kind, **own, options={name: value for name, value in given.items() if name not in named})


def check_workers(name: str, value: Any, *, least: int) -> None:
    """Raise `OptionError` unless ``value`` is a number of workers."""
    check_number(name, value, least=least, most=MOST)


def check_number(name: str, value: Any, *, kind: type = Integral, least: int = 1, most: float = inf) -> None:
    """Raise `OptionError` unless ``value`` is a number of this kind and in this range."""
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        what = "whole number" if kind is Integral else "number"
        span = f"of at least {least}" if most == inf else f"from {least} to {most:,}"
        raise OptionError(f"{name} = {value!r}; expected a {what} {span}", "Correct it and try again.")


def _check_names(kind: str, options: Mapping[str, Any]) -> None:
    """Raise `OptionError` if a kind has no such option; ``auto`` takes those of all kinds."""
    mine = set().union(*map(option_names, KINDS[1:])) if kind == "auto" else option_names(kind)
    if kind == "gateway" or not mine:  # only a gateway knows what it offers; the preflight names a missing library
        return
    unknown = next((name for name in options if name not in mine), None)
    if unknown is None:
        return
    owners = " and ".join(other for other in KINDS[1:] if unknown in option_names(other))
    nearest = did_you_mean(unknown, [item.name for item in fields(ClusterSpec)] + sorted(mine))
    raise OptionError(f"unknown option {unknown} for kind {kind!r}", f"It belongs to {owners}." if owners else nearest)


def option_names(kind: str) -> set[str]:
    """Return the options of a kind besides the fields of `ClusterSpec`; none if its library is missing."""
    makers: tuple[Any, ...]
    if kind in {"kubernetes", "gateway"}:
        return set(KUBERNETES_OPTIONS if kind == "kubernetes" else GATEWAY_OPTIONS)
    if kind == "local":
        from distributed import LocalCluster, Nanny, Worker

        makers = (LocalCluster, Nanny, Worker)
    elif util.find_spec("dask_jobqueue") is None:
        return set()
    else:
        library = jobqueue()
        made = getattr(library, BATCH[kind][0])
        makers = (library.core.JobQueueCluster, made.job_cls, library.core.Job)
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    found = {item.name for maker in makers for item in signature(maker).parameters.values() if item.kind in named}
    return found - OWN_OPTIONS


_IMPORTING = threading.Lock()


def jobqueue() -> Any:
    """Return the module dask_jobqueue, imported without its handler of Ctrl-C.

    ``dask_jobqueue.runner``, which its package always imports, sets a handler that ends the process without closing
    anything, and no option prevents this. Outside the main thread the import fails, because Python allows signal
    handlers to be set only in the main thread. So during the import this thread, and no other, sets none.
    """
    with _IMPORTING:
        importing, set_handler = threading.current_thread(), signal.signal

        def set_handler_elsewhere(number: int, handler: Any) -> Any:
            if threading.current_thread() is importing:
                return signal.getsignal(number)
            return set_handler(number, handler)

        signal.signal = set_handler_elsewhere  # type: ignore[assignment]
        try:
            import dask_jobqueue
            import dask_jobqueue.core
        finally:
            signal.signal = set_handler
    return dask_jobqueue


def parse_memory(text: str | int, name: str = "memory") -> int:
    """Return an amount of memory, or of what else ``name`` says, in bytes.

    Raises OptionError if it is not an amount, or less than 100 MB.

    >>> parse_memory("2GiB"), parse_memory("500 MB"), parse_memory(1_000_000_000)
    (2147483648, 500000000, 1000000000)
    """
    amount = int(quantity(str(text).replace(" ", "").removesuffix("B").removesuffix("b")))
    if amount < 100_000_000:
        raise OptionError(f"{name} = {text!r} is {amount} bytes; a worker needs at least 100MB", "Try 2GiB.")
    return amount


def quantity(text: str) -> float:
    """Return a number with a unit prefix, as Kubernetes writes it; raise OptionError if it is not one.

    >>> quantity("500m"), quantity("2Gi"), quantity("3")
    (0.5, 2147483648.0, 3.0)
    """
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]{0,2})", str(text).strip())
    if match is None or (match[2] and match[2] not in SUFFIXES):
        raise OptionError(f"{shown(str(text), 40)} is not an amount", "Write for instance 2GiB, 500M or 1.5.")
    return float(match[1]) * SUFFIXES.get(match[2], 1.0)
