"""Skims: the preselected leptons of a chunk, kept on disk so that runs with other cuts are fast.

The preselection (enough leptons for a channel) does not depend on the selection, so that one skim serves them all,
unless they need other columns or preselections besides: these are part of its name. A skim is an uncompressed Arrow
file with lists of leptons, beside it its sha256 in the form of ``sha256sum``; a skim that does not agree with its
sha256 is ignored and replaced. Skims lie in a folder named by a hash of the code that reads, each named by a hash of
its file and range of entries; those of other code, or of other users, are not used. Where they cannot be written, every
run reads the files.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from higgsnb import provenance
from higgsnb.errors import describe
from higgsnb.events.columns import Array, EventColumns, Integers
from higgsnb.events.schema import Read
from higgsnb.redaction import logger
from higgsnb.selection import Leptons
from higgsnb.storage import atomic_write, distrust, make_folder, own_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from higgsnb.datasets import Chunk

log = logger(__name__)
_MORE = "column "
"""What the names of columns begin with that were asked for besides those of leptons."""


def skim_path(folder: Path, chunk: Chunk, identity: list[Any]) -> Path:
    """Return the path of a chunk's skim; ``identity`` tells its file from any other: checksum, or place and state."""
    content = [identity, chunk.schema, chunk.start, chunk.stop]
    return _version_folder(folder) / f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()}.arrow"


@cache
def _version_folder(folder: Path) -> Path:
    """Return the folder for skims of this version of the code; log a line if there are skims of other versions.

    They are left alone, as another installation may be using them.
    """
    folder = own_folder(folder)
    mine = own_folder(folder / f"code-{provenance.sources_sha256(*provenance.READ_MODULES)[:24]}")
    if any(path not in (mine, mine.parent) for path in (*folder.glob("code-*"), *folder.glob("*.arrow"))):
        log.warning("%s: skims of another version are not used; remove all but %s to free space", folder, mine.name)
    return mine


def save(read: Read, path: Path) -> None:
    """Write a skim, a row per event with leptons as lists, and its sha256, each under a temporary name first.

    If there is no room for it, a line of the log says so: results do not need it, later runs take longer.
    """
    import pyarrow as pa

    leptons, columns = read.leptons, {"entry": pa.array(read.entries)}
    for name in Leptons._fields:
        values = getattr(leptons, name)
        if values is None or name.endswith("_offsets"):
            continue
        is_flat = name in ("run", "luminosity_block", "event", "passes")
        columns[name] = (
            pa.array(values) if is_flat else _lists(values, getattr(leptons, f"{name.partition('_')[0]}_offsets"))
        )
    about = {"n_events": str(read.n_events), "reader": read.reader, "integrity": read.integrity}
    about["missing"] = json.dumps(sorted(read.missing))
    if read.columns is not None:
        more, collections = read.columns, {name: read.columns.collection(name) for name in read.columns.jagged}
        columns |= {f"{_MORE}{name}": pa.array(values) for name, values in more.flat.items()}
        columns |= {f"{_MORE}{name}": _lists(more.jagged[name], more.offsets[one]) for name, one in collections.items()}
        about["columns"] = json.dumps([list(more.flat), collections, sorted(more.missing)])
    table, sink = pa.table(columns).replace_schema_metadata(about), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    checksum = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
    try:
        make_folder(path.parent)
        for target, data in ((path, content), (Path(f"{path}.sha256"), checksum.encode())):
            with atomic_write(target, mode=0o644) as temporary:
                temporary.write_bytes(data)
    except OSError as error:
        _say_not_kept(path.parent.parent, error.strerror or str(error), describe(error)[1])


@cache
def _say_not_kept(folder: Path, why: str, hint: str) -> None:
    """Log, once for each folder and reason, that no skims are kept."""
    log.warning("skims cannot be kept in %s (%s), so that later runs take longer. %s", folder, why.lower(), hint)


def load(path: Path) -> Read | None:
    """Return the content of a skim; None if there is none, or one that is not believed or differs from its sha256."""
    import pyarrow as pa

    if reason := distrust(path) or distrust(Path(f"{path}.sha256")):
        log.warning("%s %s, so it is not used", path, reason)
        return None
    try:
        content, stated = path.read_bytes(), Path(f"{path}.sha256").read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    if stated[:1] != [hashlib.sha256(content).hexdigest()]:
        return None
    table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    fields: dict[str, Any] = dict.fromkeys(Leptons._fields)
    for name in set(Leptons._fields) & set(table.column_names):
        fields[name] = _values(table, name)
    for flavour in ("muon", "electron"):
        fields[f"{flavour}_offsets"] = _offsets(table, f"{flavour}_pt")
    n_events, reader, integrity = int(about["n_events"]), about["reader"], about["integrity"]
    entries, missing = _values(table, "entry"), frozenset(json.loads(about["missing"]))
    more = None
    if "columns" in about:
        flat, collections, lacking = json.loads(about["columns"])
        more = EventColumns(
            entries=entries,
            n_events=n_events,
            flat={name: _values(table, f"{_MORE}{name}") for name in flat},
            jagged={name: _values(table, f"{_MORE}{name}") for name in collections},
            offsets={one: _offsets(table, f"{_MORE}{name}") for name, one in collections.items()},
            missing=frozenset(lacking),
            reader=reader,
            integrity=integrity,
        )
    return Read(Leptons(**fields), entries, n_events, reader, integrity, missing, more)


def _lists(values: Array, offsets: Integers) -> pa.ListArray:
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _offsets(table: pa.Table, name: str) -> Integers:
    """Return where the lists of a column start."""
    offsets: Integers = table.column(name).combine_chunks().offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return offsets


def _values(table: pa.Table, name: str) -> Any:
    """Return a flat column as an array, or the leptons of all events of a column of lists.

    A copy, as the kernel would be compiled once more for arrays that cannot be written to.
    """
    import pyarrow as pa

    column = table.column(name).combine_chunks()
    return np.array((column.values if isinstance(column, pa.ListArray) else column).to_numpy(zero_copy_only=False))
