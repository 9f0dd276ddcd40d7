"""Read ROOT files: through the fast readers, or through uproot where a file has a form that these do not know."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb import datasets
from higgsnb.errors import DamagedFileError, HiggsnbError, SchemaError, UnreadableError, first_line
from higgsnb.events.fast import preselected
from higgsnb.events.fast.blocks import UnexpectedFormError
from higgsnb.events.fast.pages import read_page_lists
from higgsnb.events.schema import (
    BRANCHES,
    GENERATOR_WEIGHT,
    TREE,
    FileInfo,
    check_branches,
    check_tree,
    diagnose,
    offsets_of,
)
from higgsnb.selection import Leptons

if TYPE_CHECKING:
    from higgsnb.events.fast.baskets import BasketReader
    from higgsnb.events.fast.pages import PageReader

DAMAGED_HINT = "The file is damaged or incomplete; fetch it again."


def inspect_root(source: datasets.Source) -> FileInfo:
    """Check a ROOT file against the schema and count its entries."""
    with open_file(source) as directory:
        tree = directory[TREE]
        check_branches(tree, source.location)
        kind = "RNTuple" if "RNTuple" in type(tree).__name__ else "TTree"
        size = source.size if source.is_remote else Path(source.location).stat().st_size
        for branch in BRANCHES.values():  # the plan trusts this number: each branch has it, too
            if tree[branch].num_entries != tree.num_entries:
                raise UnreadableError(
                    f"{source.location}: branch {branch} has {tree[branch].num_entries:,} entries, the tree "
                    f"{tree.num_entries:,}",
                    "The file is damaged: fetch it again.",
                )
        weighted = GENERATOR_WEIGHT in tree.keys() or "Runs" in directory.keys(cycle=False)  # noqa: SIM118
        return FileInfo(int(tree.num_entries), kind, size, str(tree.file.uuid), weighted=weighted)


def read_root(source: datasets.Source, start: int, stop: int) -> Leptons:
    """Read the entries [start, stop) of a TTree or RNTuple through uproot."""
    with open_tree(source) as tree:
        try:
            return _leptons(tree, source.location, start, stop)
        except Exception:  # a branch that is missing or of the wrong type is not damage
            check_branches(tree, source.location)
            raise


def _leptons(tree: Any, location: str, start: int, stop: int) -> Leptons:
    import awkward as ak

    arrays = {name: tree[branch].array(entry_start=start, entry_stop=stop) for name, branch in BRANCHES.items()}
    offsets = {flavour: offsets_of(arrays[f"{flavour}_offsets"]) for flavour in ("muon", "electron")}
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, array in arrays.items():
        flavour, _, quantity = name.partition("_")
        if name in ("run", "luminosity_block", "event"):
            columns[name] = np.asarray(array).astype(np.uint64 if name == "event" else np.int64)
        elif quantity == "offsets":
            columns[name] = offsets[flavour]
        elif np.array_equal(np.asarray(ak.num(array)), np.diff(offsets[flavour])):
            dtype = np.int32 if quantity == "charge" else np.float32
            columns[name] = np.ascontiguousarray(ak.flatten(array)).astype(dtype)
        else:
            counter = BRANCHES[f"{flavour}_offsets"]
            raise UnreadableError(
                f"{location}: {BRANCHES[name]} does not have as many values as {counter} says",
                "The file is damaged: fetch it again.",
            )
    return Leptons(**columns)


def reader_of(source: datasets.Source, *, unchecked: bool) -> BasketReader | PageReader:
    """Return the fast reader of a file; one that `inspect_root` has not checked is checked against the schema."""
    return kept_reader(source.location, source.is_remote, source.verified, unchecked, source.version)


@lru_cache(maxsize=32)
def kept_reader(
    location: str, is_remote: bool, verified: bool, unchecked: bool, version: datasets.Version
) -> BasketReader | PageReader:
    """Open a file and keep it open as long as its version stays; threads share it.

    Opening a file of NanoAOD with its 1500 branches takes a second.
    """
    diagnose(location)
    remote = datasets.RemoteFile(location, version.size or 0, version) if is_remote else None
    try:
        return preselected.open_preselected(
            location,
            preselected.columns_for(BRANCHES),
            check=(lambda tree: check_branches(tree, location)) if unchecked else None,
            checked=not verified,
            remote=remote,
        )
    except KeyError as error:
        raise SchemaError(
            f"{location}: no tree {TREE!r}, or one without the branches needed ({first_line(error)})",
            "Is this a file of the schema that the campaign names?",
        ) from error


@contextmanager
def open_file(source: datasets.Source) -> Iterator[Any]:
    """Open a file with uproot, and yield its directory; an error that damaged bytes cause is an `UnreadableError`."""
    diagnose(source.location)
    remote = None
    if source.is_remote:
        remote = io.BufferedReader(datasets.BlockwiseFile(source.location, source.size or 0, source.version))
    with clear_errors(source.location), preselected.open_directory(source.location, remote) as directory:
        check_tree(directory.keys(recursive=False, cycle=False), source.location)
        if directory.classname_of(TREE) == "ROOT::RNTuple":
            read_page_lists(directory[TREE], source.location)
        yield directory


@contextmanager
def open_tree(source: datasets.Source) -> Iterator[Any]:
    """Open the tree of a file with uproot, see `open_file`."""
    with open_file(source) as directory:
        yield directory[TREE]


@contextmanager
def clear_errors(location: str) -> Iterator[None]:
    """Turn any error that damaged bytes cause into an `UnreadableError`."""
    try:
        yield
    except DamagedFileError as error:
        raise UnreadableError(error.message, error.hint) from error
    except (HiggsnbError, UnexpectedFormError):
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UnreadableError(f"{location}: points to a place before its own start", DAMAGED_HINT) from error
    except MemoryError as error:
        raise UnreadableError(
            f"{location}: more memory is needed to read it than there is ({first_line(error)})",
            "Give workers more memory, or use smaller chunks (--chunk-events). A file that alone needs so much may be "
            "damaged: fetch it again.",
        ) from error
    except Exception as error:  # uproot raises whatever the damage leads to: struct.error, zlib.error, IndexError, …
        message = f"{location}: cannot be read ({type(error).__name__}: {first_line(error)})"
        raise UnreadableError(message, DAMAGED_HINT) from error
