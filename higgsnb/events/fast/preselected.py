"""Open a TTree or RNTuple for reading its preselected events, and return these as `Leptons`."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

from higgsnb.datasets import RemoteFile
from higgsnb.events.fast.baskets import BasketReader, Columns, Preselected
from higgsnb.events.fast.blocks import ByteSource, LocalBlocks, RemoteBlocks, UnexpectedFormError
from higgsnb.events.fast.pages import PageReader
from higgsnb.events.schema import TREE
from higgsnb.selection import Leptons

_READERS: dict[str, type[BasketReader | PageReader]] = {"TTree": BasketReader, "ROOT::RNTuple": PageReader}
_TYPES = {
    "run": np.int64,
    "luminosity_block": np.int64,
    "event": np.uint64,
    "muon_charge": np.int32,
    "electron_charge": np.int32,
}
"""Types of the fields of `Leptons` that are not float32."""


def open_preselected(
    location: str | Path,
    columns: Columns,
    *,
    check: Callable[[Any], None] | None = None,
    checked: bool = True,
    remote: RemoteFile | None = None,
) -> BasketReader | PageReader:
    """Open the tree of a file for reading its preselected events; ``remote`` reads the file if it is not local.

    ``check`` is called with uproot's tree and may raise an error.

    Raises
    ------
    KeyError
        If the tree or a branch does not exist.
    UnexpectedFormError
        If a branch or field is not plain.
    DamagedFileError
        If the table of baskets contradicts itself.
    """
    # Remote headers and lists of baskets are requested 256 kB at a time.
    with open_directory(location, None if remote is None else io.BufferedReader(remote, 256 * 1024)) as opened:
        found = opened[TREE]
        if check is not None:
            check(found)
        reader = _READERS.get(found.classname)
        if reader is None:
            raise UnexpectedFormError(f"{TREE} in {location} is a {found.classname}, neither TTree nor RNTuple")
        source: ByteSource = (
            LocalBlocks(location) if remote is None else RemoteBlocks(remote.location, remote.pread, remote.size)
        )
        try:
            return reader(found, source, columns, checked=checked)
        except BaseException:
            source.close()
            raise


def open_directory(location: str | Path, remote: Any) -> Any:
    """Open a file with uproot; ``remote`` gives its bytes if it is not local. Nothing of it is kept for later files."""
    import uproot

    what = _local_file(location) if remote is None else remote
    return uproot.open(what, object_cache=None, array_cache=None, custom_classes=own_classes())


def _local_file(location: str | Path) -> Any:
    """Return what `uproot.open` has to be given to open a local file, whatever characters its name has.

    Of a str it takes off blanks, and what follows a colon for the name of an object; of any path fsspec takes what
    follows two colons for another file system, so that such a file is opened here.
    """
    return Path(location).open("rb") if "::" in str(location) else {location: None}


def own_classes() -> MutableMapping[str, Any]:
    """Return a copy of uproot's classes for one file, for ``custom_classes`` of `uproot.open`.

    uproot generates classes from the streamers of a file and uses them for all later files. A damaged file would spoil
    the good ones after it; with a copy its classes are its own.
    """
    from uproot import classes
    from uproot.model import DispatchByVersion

    class OwnClasses(dict[str, Any]):
        """Copies, made when asked for, of what is shared."""

        def get(self, name: str, default: Any = None) -> Any:
            return self[name] if name in self or name in classes else default

        def __missing__(self, name: str) -> Any:
            found = classes[name]
            if issubclass(found, DispatchByVersion):
                found = type(found)(found.__name__, (found,), {"known_versions": dict(found.known_versions)})
            self[name] = found
            return found

    return OwnClasses()


def columns_for(branches: Mapping[str, str]) -> Columns:
    """Return the `Columns` behind a table of `Leptons` fields and their branches, such as `events.BRANCHES`."""
    flat = tuple(branch for name, branch in branches.items() if not name.startswith(("muon_", "electron_")))
    counted = [
        tuple(b for name, b in branches.items() if name.startswith(f"{flavour}_") and not name.endswith("_offsets"))
        for flavour in ("muon", "electron")
    ]
    return Columns(branches["muon_offsets"], branches["electron_offsets"], flat, *counted)


def to_leptons(events: Preselected, branches: Mapping[str, str]) -> Leptons:
    """Return preselected events as `Leptons`, for `kernel.select`; fields without a branch are None."""
    fields: dict[str, Any] = dict.fromkeys(Leptons._fields)
    for name, branch in branches.items():
        if branch in events.columns:
            fields[name] = events.columns[branch].astype(_TYPES.get(name, np.float32), copy=False)
    fields |= {"muon_offsets": events.muon_offsets, "electron_offsets": events.electron_offsets}
    return Leptons(**fields)
