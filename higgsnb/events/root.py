"""Read ROOT files: through the fast readers, or through uproot where a file has a form that these do not know."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb import datasets
from higgsnb.errors import DamagedFileError, SchemaError, UnreadableError
from higgsnb.events.fast import preselected
from higgsnb.events.fast.blocks import UnexpectedFormError
from higgsnb.events.schema import BRANCHES, TREE, FileInfo, check_branches, check_tree, diagnose, file_state, offsets_of
from higgsnb.selection import Leptons

if TYPE_CHECKING:
    from higgsnb.events.fast.baskets import BasketReader
    from higgsnb.events.fast.pages import PageReader


def inspect_root(source: datasets.Source) -> FileInfo:
    """Check a ROOT file against the schema and count its entries."""
    with open_tree(source) as tree:
        _check_types(tree, source.location)
        kind = "RNTuple" if "RNTuple" in type(tree).__name__ else "TTree"
        size = source.size if source.is_remote else Path(source.location).stat().st_size
        return FileInfo(int(tree.num_entries), kind, size, str(tree.file.uuid))


def read_root(source: datasets.Source, start: int, stop: int) -> Leptons:
    """Read the entries [start, stop) of a TTree or RNTuple through uproot."""
    with open_tree(source) as tree:
        columns = {
            column: tree[branch].array(entry_start=start, entry_stop=stop) for column, branch in BRANCHES.items()
        }
    offsets = {name: offsets_of(columns[f"{name}_offsets"]) for name in ("muon", "electron")}
    return Leptons(**{column: _flat(column, array, offsets, source.location) for column, array in columns.items()})


def _flat(column: str, array: Any, offsets: Mapping[str, npt.NDArray[np.int64]], location: str) -> npt.NDArray[Any]:
    """Return a column of `Leptons` from an array of uproot; a jagged one must agree with its counter."""
    import awkward as ak

    if column in ("run", "luminosity_block", "event"):
        return np.asarray(array).astype(np.uint64 if column == "event" else np.int64)
    flavour = column.partition("_")[0]
    if column == f"{flavour}_offsets":
        return offsets[flavour]
    if not np.array_equal(np.asarray(ak.num(array)), np.diff(offsets[flavour])):
        raise UnreadableError(
            f"{location}: {BRANCHES[column]} does not have as many values as {BRANCHES[flavour + '_offsets']} says",
            "The file is damaged: fetch it again.",
        )
    return np.ascontiguousarray(ak.flatten(array)).astype(np.int32 if column.endswith("charge") else np.float32)


def reader_of(source: datasets.Source, *, unchecked: bool) -> BasketReader | PageReader:
    """Return the fast reader of a file; one that `inspect_root` has not checked is checked against the schema."""
    if source.is_remote:
        return kept_reader(source.location, source.size or 0, source.verified, unchecked, None)
    return kept_reader(source.location, None, source.verified, unchecked, file_state(source.location))


@lru_cache(maxsize=32)
def kept_reader(
    location: str, remote_size: int | None, verified: bool, unchecked: bool, _state: tuple[int, int] | None
) -> BasketReader | PageReader:
    """Open a file and keep it open, as opening one of NanoAOD's 1500 branches takes a second. Threads share it."""
    diagnose(location)
    remote = None if remote_size is None else datasets.RemoteFile(location, remote_size)
    try:
        return preselected.open_preselected(
            location,
            preselected.columns_for(BRANCHES),
            tree=TREE,
            check=(lambda tree: _check_types(tree, location)) if unchecked else None,
            checked=not verified,
            remote=remote,
        )
    except KeyError as error:
        raise SchemaError(
            f"{location}: no tree {TREE!r}, or one without the branches needed: {error}",
            "Is this a file of the schema that the campaign names?",
        ) from error


def _check_types(tree: Any, location: str) -> None:
    """Check the branches of an open tree, see `check_branches`."""
    check_branches(tree.keys(), tree.typenames() if hasattr(tree, "typenames") else {}, location)


@contextmanager
def open_tree(source: datasets.Source) -> Iterator[Any]:
    """Open the tree of a file with uproot; any error that damaged bytes cause becomes an `UnreadableError`."""
    import uproot

    diagnose(source.location)
    remote = source.is_remote
    what = io.BufferedReader(datasets.RemoteFile(source.location, source.size or 0)) if remote else source.location
    options: dict[str, Any] = {"object_cache": None, "array_cache": None, "custom_classes": preselected.own_classes()}
    with clear_errors(source.location), uproot.open(what, **options) as directory:
        check_tree(directory.keys(recursive=False, cycle=False), source.location)
        yield directory[TREE]


@contextmanager
def clear_errors(location: str) -> Iterator[None]:
    """Turn any error that damaged bytes cause into an `UnreadableError`."""
    try:
        yield
    except DamagedFileError as error:
        raise UnreadableError(error.message, error.hint) from error
    except (SchemaError, UnexpectedFormError, OSError, MemoryError):
        raise
    except Exception as error:  # uproot raises whatever the damage leads to: struct.error, zlib.error, IndexError, …
        detail = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UnreadableError(
            f"{location}: cannot be read ({type(error).__name__}: {detail[:160]})",
            "The file is damaged or incomplete; fetch it again.",
        ) from error
