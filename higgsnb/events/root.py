"""Read ROOT files: through the fast readers, or through uproot where a file has a form that these do not know."""

from __future__ import annotations

import io
from collections.abc import Iterator
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
        check_branches(tree, source.location)
        kind = "RNTuple" if "RNTuple" in type(tree).__name__ else "TTree"
        size = source.size if source.is_remote else Path(source.location).stat().st_size
        return FileInfo(int(tree.num_entries), kind, size, str(tree.file.uuid))


def read_root(source: datasets.Source, start: int, stop: int) -> Leptons:
    """Read the entries [start, stop) of a TTree or RNTuple through uproot."""
    import awkward as ak

    with open_tree(source) as tree:
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
                f"{source.location}: {BRANCHES[name]} does not have as many values as {counter} says",
                "The file is damaged: fetch it again.",
            )
    return Leptons(**columns)


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
            check=(lambda tree: check_branches(tree, location)) if unchecked else None,
            checked=not verified,
            remote=remote,
        )
    except KeyError as error:
        raise SchemaError(
            f"{location}: no tree {TREE!r}, or one without the branches needed: {error}",
            "Is this a file of the schema that the campaign names?",
        ) from error


@contextmanager
def open_file(source: datasets.Source) -> Iterator[Any]:
    """Open a file with uproot, and yield its directory; an error that damaged bytes cause is an `UnreadableError`."""
    import uproot

    diagnose(source.location)
    remote = source.is_remote
    what = io.BufferedReader(datasets.RemoteFile(source.location, source.size or 0)) if remote else source.location
    options: dict[str, Any] = {"object_cache": None, "array_cache": None, "custom_classes": preselected.own_classes()}
    with clear_errors(source.location), uproot.open(what, **options) as directory:
        check_tree(directory.keys(recursive=False, cycle=False), source.location)
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
    except (SchemaError, UnexpectedFormError, OSError, MemoryError):
        raise
    except Exception as error:  # uproot raises whatever the damage leads to: struct.error, zlib.error, IndexError, …
        detail = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UnreadableError(
            f"{location}: cannot be read ({type(error).__name__}: {detail[:160]})",
            "The file is damaged or incomplete; fetch it again.",
        ) from error
