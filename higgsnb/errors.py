"""Every error that the package raises on purpose: what is wrong, and what to do about it.

An error has a ``message``, in one line, and a ``hint``, the next step; ``str(error)`` is both, the hint on a line of
its own. Each class also derives from the built-in type that fits, so that ``except OSError`` works, too::

    HiggsnbError
    ├── OptionError (ValueError)                an argument out of range, or options that exclude each other
    ├── CampaignError (ValueError)              no such campaign, or a campaign file with a mistake in it
    ├── SelectionError (ValueError)             no such selection, or cuts that make no sense
    ├── LumiMaskError (ValueError)              not a golden JSON
    ├── LumiDataError (ValueError)              not a luminosity table by lumi section
    ├── FileError (RuntimeError)                a file that could not be analysed, with on_error="strict"
    ├── MissingFileError (FileNotFoundError)    a file that is nowhere
    ├── UnreadableError (OSError)               not ROOT, truncated, a corrupted block
    ├── DamagedFileError (ValueError)           it contradicts itself or fails a checksum
    ├── SchemaError (ValueError)                its branches are not those of the schema
    ├── TransferError (OSError)                 no source gave the file
    ├── ChecksumError (OSError)                 it is not the file that the catalogue describes
    ├── LedgerError (OSError)                   the ledger is in use, unreadable, of another version
    ├── NondeterminismError (RuntimeError)      one chunk gave two different results
    ├── VersionError (RuntimeError)             client and workers run different versions
    ├── WorkerLostError (RuntimeError)          the process that did the work died
    ├── SchedulerLostError (ConnectionError)    the Dask cluster is gone
    ├── ClusterError (RuntimeError)             a cluster could not be started or changed
    └── ApiError (RuntimeError)                 the Kubernetes API refused or did not answer
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HiggsnbError(Exception):
    """An error of this package: ``message`` says what is wrong, ``hint`` what to do next."""

    default_hint = ""

    def __init__(self, message: str, hint: str = "") -> None:
        # Not super().__init__: OSError would take two arguments for a number and its meaning.
        Exception.__init__(self, message, hint)
        self.message, self.hint = message, hint or self.default_hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class OptionError(HiggsnbError, ValueError):
    """An argument out of range, or options that exclude each other."""


class CampaignError(HiggsnbError, ValueError):
    """A campaign that cannot be used: unknown name, or a TOML file with something wrong in it."""


class SelectionError(HiggsnbError, ValueError):
    """A selection that does not exist or makes no sense."""


class LumiMaskError(HiggsnbError, ValueError):
    """A file that is not a golden JSON."""


class LumiDataError(HiggsnbError, ValueError):
    """A file that is not a brilcalc table by lumi section, or a table that lacks sections."""


class FileError(HiggsnbError, RuntimeError):
    """A file that could not be analysed, raised with ``on_error="strict"``; message and hint are those of the cause."""


class MissingFileError(HiggsnbError, FileNotFoundError):
    """A file that is nowhere; the message names each source tried."""


class UnreadableError(HiggsnbError, OSError):
    """A file that is there but cannot be read: not ROOT, truncated, a corrupted block."""


class DamagedFileError(HiggsnbError, ValueError):
    """A file that contradicts itself or fails a checksum; reading it in another way would not help."""

    default_hint = "Fetch the file again."


class SchemaError(HiggsnbError, ValueError):
    """A file whose branches are not those of its schema."""


class TransferError(HiggsnbError, OSError):
    """A file that no source gave; the message names each source tried and why."""


class ChecksumError(HiggsnbError, OSError):
    """A file that is not the one that the catalogue describes: size or adler32 differ."""


class LedgerError(HiggsnbError, OSError):
    """A ledger that cannot be used: held by another client, unreadable, of another version, on a full disk."""


class NondeterminismError(HiggsnbError, RuntimeError):
    """One chunk gave two different results: the computation cannot be trusted."""

    default_hint = "Nothing was overwritten. Run `higgsnb run --fresh` on another machine and compare."


class VersionError(HiggsnbError, RuntimeError):
    """Client and workers run different versions: their numbers could differ."""


class WorkerLostError(HiggsnbError, RuntimeError):
    """The process that did the work died; ``failures`` is the number of deaths behind it."""

    def __init__(self, message: str, hint: str = "", *, failures: int = 1) -> None:
        super().__init__(message, hint)
        self.failures = failures


class SchedulerLostError(HiggsnbError, ConnectionError):
    """The Dask cluster is gone, or has no workers, and did not come back in time."""


class ClusterError(HiggsnbError, RuntimeError):
    """A cluster that could not be started or changed."""


class ApiError(HiggsnbError, RuntimeError):
    """A request that the Kubernetes API refused or did not answer; ``status`` is 0 if there was no answer."""

    def __init__(self, message: str, hint: str = "", *, status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the hint for an unknown name: the known name that is most like it, or else the known names."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if nearest:
        return f"Did you mean {nearest[0]}?"
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"Known: {', '.join(known[:12])}{more}." if known else ""


_HINTS: tuple[tuple[type[BaseException], str], ...] = (
    (MemoryError, "Give workers more memory, or use smaller chunks (--chunk-events)."),
    (FileNotFoundError, "Check the path or address in the campaign."),
    (PermissionError, "Check the permissions of the file."),
    (ConnectionError, "Check the network, then run the same command again: it resumes."),
    (TimeoutError, "Check the network, then run the same command again: it resumes."),
    (OSError, "Check that the file can be read, or fetch it again."),
    (ValueError, "Check the file against the schema of its campaign."),
)
_UNEXPECTED = "Run `higgsnb --debug …` to see where, and please report it."


def describe(error: BaseException) -> tuple[str, str]:
    """Return what is wrong, in one line, and what to do about it; neither is empty, whoever raised the error."""
    if isinstance(error, HiggsnbError):
        message, hint = error.message, error.hint
    else:
        message, _, hint = str(error).strip().partition("\n")
    if isinstance(error, MemoryError) and not message:
        message = "the worker had no memory left"
    fallback = next((hint for kind, hint in _HINTS if isinstance(error, kind)), _UNEXPECTED)
    return message or type(error).__name__, hint.strip() or fallback
