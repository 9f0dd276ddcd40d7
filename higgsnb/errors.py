"""Every error that the package raises on purpose: what is wrong, and what to do about it.

An error has a ``message``, in one line, and a ``hint``, the next step; ``str(error)`` is both, the hint on a line of
its own. Each class also derives from the built-in type that fits, so that ``except OSError`` works, too::

    HiggsnbError
    ├── OptionError (ValueError)                an argument out of range, or options that exclude each other
    ├── CampaignError (ValueError)              no such campaign, or a campaign file with a mistake in it
    ├── SelectionError (ValueError)             no such selection, or cuts that make no sense
    ├── AnalysisError (RuntimeError)            an analysis whose function fails, or returns what it does not declare
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
import errno
import os
from collections.abc import Iterable, Sequence
from typing import Any

from higgsnb.redaction import redact


class HiggsnbError(Exception):
    """An error of this package: ``message`` says what is wrong, ``hint`` what to do next, both without secrets.

    Every class has a ``default_hint``, for errors that are raised without one.
    """

    default_hint = "Run `higgsnb --debug …` to see where, and please report it."

    def __init__(self, message: str, hint: str = "") -> None:
        # Not super().__init__: OSError would take two arguments for a number and its meaning.
        message, hint = redact(message), redact(hint)
        Exception.__init__(self, message, hint)
        self.message, self.hint = message, hint or self.default_hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}"


class OptionError(HiggsnbError, ValueError):
    """An argument out of range, or options that exclude each other."""

    default_hint = "Check the arguments: help(function) in Python, `higgsnb COMMAND --help` on the command line."


class CampaignError(HiggsnbError, ValueError):
    """A campaign that cannot be used: unknown name, or a TOML file with something wrong in it."""

    default_hint = "Correct the campaign file, or give one of datasets.names()."


class SelectionError(HiggsnbError, ValueError):
    """A selection that does not exist or makes no sense."""

    default_hint = "Correct the selection, or give one of selection.names()."


class AnalysisError(HiggsnbError, RuntimeError):
    """An analysis whose function raises an error, or returns something else than the analysis declares."""

    default_hint = "Correct the function of the analysis."


class LumiMaskError(HiggsnbError, ValueError):
    """A file that is not a golden JSON."""

    default_hint = "Download the golden JSON again."


class LumiDataError(HiggsnbError, ValueError):
    """A file that is not a brilcalc table by lumi section, or a table that lacks sections."""

    default_hint = "Make the table again with `brilcalc lumi --byls`."


class FileError(HiggsnbError, RuntimeError):
    """A file that could not be analysed, raised with ``on_error="strict"``; message and hint are those of the cause.

    It is also raised if no file of a campaign can be read: then ``failed`` has a `results.Failure` for each.
    """

    default_hint = 'Correct the file, or go on without it: on_error="report".'
    failed: Sequence[Any] = ()


class MissingFileError(HiggsnbError, FileNotFoundError):
    """A file that is nowhere; the message names each source tried."""

    default_hint = "Check the path or address in the campaign."


class UnreadableError(HiggsnbError, OSError):
    """A file that is there but cannot be read: not ROOT, truncated, a corrupted block."""

    default_hint = "Check that the file can be read, or fetch it again."


class DamagedFileError(HiggsnbError, ValueError):
    """A file that contradicts itself or fails a checksum; reading it in another way would not help."""

    default_hint = "Fetch the file again."


class SchemaError(HiggsnbError, ValueError):
    """A file whose branches are not those of its schema."""

    default_hint = "Check the file against the schema of its campaign."


class TransferError(HiggsnbError, OSError):
    """A file that no source gave; the message names each source tried and why."""

    default_hint = "Check the network, then run the same command again: it resumes."


class ChecksumError(HiggsnbError, OSError):
    """A file that is not the one that the catalogue describes: size or adler32 differ."""

    default_hint = "Delete the file and fetch it again."


class LedgerError(HiggsnbError, OSError):
    """A ledger that cannot be used: held by another client, unreadable, of another version, on a full disk."""

    default_hint = "Choose another result directory (--out)."


class NondeterminismError(HiggsnbError, RuntimeError):
    """One chunk gave two different results: the computation cannot be trusted."""

    default_hint = "Nothing was overwritten. Run `higgsnb run --fresh` on another machine and compare."


class VersionError(HiggsnbError, RuntimeError):
    """Client and workers run different versions: their numbers could differ."""

    default_hint = "Use the same image or environment for both, so that they give the same numbers."


class WorkerLostError(HiggsnbError, RuntimeError):
    """The process that did the work died; ``failures`` is the number of deaths behind it."""

    default_hint = "Give workers more memory, or use smaller chunks (--chunk-events)."

    def __init__(self, message: str, hint: str = "", *, failures: int = 1) -> None:
        super().__init__(message, hint)
        self.failures = failures


class SchedulerLostError(HiggsnbError, ConnectionError):
    """The Dask cluster is gone, or has no workers, and did not come back in time."""

    default_hint = "Start a cluster again and repeat the call: with a ledger it resumes."


class ClusterError(HiggsnbError, RuntimeError):
    """A cluster that could not be started or changed."""

    default_hint = "Run `higgsnb doctor` to see what this machine or session can do."


class ApiError(HiggsnbError, RuntimeError):
    """A request that the Kubernetes API refused or did not answer; ``status`` is 0 if there was no answer."""

    default_hint = "Run `higgsnb doctor` to see what this machine or session can do."

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


def first_line(error: BaseException) -> str:
    """Return the first line of another package's error, at most 160 characters, for a message of one line."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - of an error of the user's
        text = "an error without a text"
    return text.strip().partition("\n")[0].strip()[:160]


_HINTS: tuple[tuple[type[BaseException], str], ...] = (
    (MemoryError, WorkerLostError.default_hint),
    (FileNotFoundError, MissingFileError.default_hint),
    (PermissionError, "Check the permissions of the file."),
    (ConnectionError, TransferError.default_hint),
    (TimeoutError, TransferError.default_hint),
    (OSError, UnreadableError.default_hint),
    (ValueError, SchemaError.default_hint),
)


_SPACE = "Free some space, or choose another disk: --out for results, HIGGSNB_CACHE for the cache."
_HINTS_BY_NUMBER = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: f"{_SPACE} `ulimit -f` shows the limit for one file.",
    errno.EROFS: "Choose a place that can be written: --out for results, HIGGSNB_CACHE for the cache.",
    errno.EMFILE: "Use fewer workers, or allow more open files (ulimit -n).",
    errno.ENOMEM: WorkerLostError.default_hint,
    errno.EIO: "The disk or its connection has a fault: copy the file to another one.",
}


def describe(error: BaseException, file: str = "") -> tuple[str, str]:
    """Return what is wrong, and what to do about it; neither is empty nor has a secret in it.

    Of another package's error the message is the first line of its text, the hint the rest of it. ``file`` is what was
    being read or written: it is named if such an error names none.
    """
    if isinstance(error, HiggsnbError):
        return error.message, error.hint
    file = redact(file)
    message, _, hint = redact(str(error)).strip().partition("\n")
    fallback = next((hint for kind, hint in _HINTS if isinstance(error, kind)), HiggsnbError.default_hint)
    if isinstance(error, OSError) and error.errno is not None:
        file = file if error.filename is None else redact(os.fsdecode(error.filename))
        message = (error.strerror or os.strerror(error.errno)).lower()
        fallback = _HINTS_BY_NUMBER.get(error.errno, fallback)
    elif isinstance(error, MemoryError):
        message = f"no memory left ({message})" if message else "the worker had no memory left"
    message = message or type(error).__name__
    return f"{file}: {message}" if file else message, hint.strip() or fallback
