"""Open the TTree or RNTuple of a file, and make a reader for some columns of it."""

from __future__ import annotations

import io
from collections.abc import MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

from higgsnb.datasets import RemoteFile
from higgsnb.errors import SchemaError
from higgsnb.events.columns import Columns
from higgsnb.events.fast.baskets import BasketReader
from higgsnb.events.fast.blocks import ByteSource, LocalBlocks, RemoteBlocks
from higgsnb.events.fast.form import Catalogue, FieldCatalogue, Form, TreeCatalogue, resolve
from higgsnb.events.fast.pages import PageReader, read_page_lists
from higgsnb.events.schema import TREE

READ_AHEAD = 256 * 1024
"""Bytes that are requested at a time of the headers and lists of baskets of a remote file."""


def open_preselected(
    location: str | Path,
    columns: Columns,
    *,
    tree: str = TREE,
    checked: bool = True,
    remote: RemoteFile | None = None,
) -> BasketReader | PageReader:
    """Open a file for reading some columns of its preselected events; ``remote`` reads it if it is not local.

    Raises
    ------
    KeyError
        If the tree does not exist.
    SchemaError
        If it is no tree, or a column does not exist.
    UnexpectedFormError
        If a branch or field is not plain.
    DamagedFileError
        If the table of baskets contradicts itself.
    """
    with open_directory(location, None if remote is None else io.BufferedReader(remote, READ_AHEAD)) as opened:
        catalogue = catalogue_of(opened[tree], str(location), tree)
        (form,) = resolve(columns, [catalogue], str(location), tree)
        source = source_of(location, remote)
        try:
            return reader_for(catalogue, source, columns, form, checked=checked)
        except BaseException:
            source.close()
            raise


def source_of(location: str | Path, remote: RemoteFile | None) -> ByteSource:
    """Return where the bytes of a file come from."""
    return LocalBlocks(location) if remote is None else RemoteBlocks(remote.location, remote.pread, remote.size)


def catalogue_of(tree: Any, location: str, name: str) -> Catalogue:
    """Return the columns of an open tree, with all that has to be read of its file while it is open.

    Raises
    ------
    SchemaError
        If it is neither a TTree nor an RNTuple.
    DamagedFileError
        See `pages.read_page_lists`.
    """
    kind = getattr(tree, "classname", "folder")
    if kind == "ROOT::RNTuple":
        read_page_lists(tree, location)
        return FieldCatalogue(tree, location)
    if not hasattr(type(tree), "num_entries"):
        raise SchemaError(
            f"{location}: {name!r} is a {kind}, neither a TTree nor an RNTuple",
            "Is this a file of events? Give the one that holds them.",
        )
    return TreeCatalogue(tree, location)


def reader_for(
    catalogue: Catalogue, source: ByteSource, columns: Columns, form: Form, *, checked: bool
) -> BasketReader | PageReader:
    """Return the fast reader of some columns."""
    if isinstance(catalogue, TreeCatalogue):
        return BasketReader(catalogue, source, columns, form, checked=checked)
    return PageReader(catalogue, source, columns, form, checked=checked)


def open_directory(location: str | Path, remote: Any) -> Any:
    """Open a file with uproot; ``remote`` gives its bytes if it is not local. Nothing of it is kept for later files."""
    import uproot

    what = _local_file(location) if remote is None else remote
    directory = uproot.open(what, object_cache=None, array_cache=None, custom_classes=own_classes())
    directory.file.class_named = cache(directory.file.class_named)  # it is asked nine times for each branch
    return directory


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
