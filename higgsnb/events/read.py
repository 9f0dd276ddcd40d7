"""Read chunks of event files, ROOT or CSV, as `Leptons`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from higgsnb import datasets
from higgsnb.errors import CampaignError, SchemaError, UnreadableError
from higgsnb.events import skims
from higgsnb.events.csv import inspect_csv, read_csv
from higgsnb.events.fast import preselected
from higgsnb.events.fast.blocks import UnexpectedFormError
from higgsnb.events.root import clear_errors, inspect_root, open_file, open_tree, read_root, reader_of
from higgsnb.events.schema import BRANCHES, GENERATOR_WEIGHT, TREE, FileInfo, Generator, Read, file_state
from higgsnb.selection import Leptons

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk, File

log = logging.getLogger(__name__)


def inspect(file: File, schema: str) -> FileInfo:
    """Open a file, check it against its schema, and count its entries; no event is read.

    Raises
    ------
    FileNotFoundError
        If no source has the file; names each source tried.
    UnreadableError
        If it is empty, not a ROOT file, truncated or damaged.
    SchemaError
        If branches are missing (with the nearest present name) or have the wrong type.
    CampaignError
        If the number of entries differs from the one in the campaign.
    """
    source = _locate(file)
    info = inspect_csv(source.location) if schema == "csv" else inspect_root(source)
    _check_events(info.entries, file)
    return info


def info_from_campaign(file: File) -> FileInfo | None:
    """Return what the campaign states of a file if that identifies it, so that it need not be opened beforehand.

    The reader checks the file against it. None unless number of events, size and checksum are all given.
    """
    if file.events is None or file.bytes is None or file.adler32 is None:
        return None
    return FileInfo(file.events, "", file.bytes, None)


def read_preselected(chunk: Chunk, *, skims_folder: Path | None = None) -> Read:
    """Read the events of a chunk that have enough leptons for a channel, and no others.

    The skim of the chunk in ``skims_folder`` is read if there is one, and written if there is none, see `skims`. Raises
    as `inspect` does.
    """
    if skims_folder is None or chunk.schema == "csv":
        return _read_preselected(chunk)
    source = _locate(chunk.file)
    if source.verified:
        identity = [chunk.file.adler32, source.size]
    elif source.is_remote:
        identity = [source.location, source.size]
    else:
        identity = [source.location, *file_state(source.location)]
    path = skims.skim_path(skims_folder, chunk, identity)
    kept = skims.load(path)
    if kept is None:
        kept = _read_preselected(chunk)
        skims.save(kept, path)
    return kept


def _read_preselected(chunk: Chunk) -> Read:
    source = _locate(chunk.file)
    whole = "file" if source.verified else "none"
    if chunk.schema == "csv":
        if chunk.fingerprint not in (None, chunk.file.adler32, datasets.checksum(Path(source.location))):
            _raise_changed(chunk, "is not the file that it was when the run began")
        return _all_events(read_csv(source.location, chunk.start, chunk.stop), chunk, "csv", whole)
    try:
        with clear_errors(source.location):
            reader = reader_of(source, unchecked=info_from_campaign(chunk.file) is not None)
        _check_same(chunk, reader.n_entries, reader.uuid)
        with clear_errors(source.location):
            found = reader.read(chunk.start, chunk.stop)
    except UnexpectedFormError as error:
        log.info("%s: read by uproot, as %s", source, error)
        with open_tree(source) as tree:
            entries, uuid = int(tree.num_entries), str(tree.file.uuid)
        _check_same(chunk, entries, uuid)
        return _all_events(read_root(source, chunk.start, chunk.stop), chunk, "uproot", whole)
    integrity = "file" if source.verified else "blocks" if found.notes.verified else "none"
    return Read(preselected.to_leptons(found, BRANCHES), found.entries, found.n_read, reader.name, integrity)


def _all_events(leptons: Leptons, chunk: Chunk, reader: str, integrity: str) -> Read:
    return Read(leptons, np.arange(chunk.start, chunk.start + leptons.n_events), leptons.n_events, reader, integrity)


def _check_same(chunk: Chunk, entries: int, uuid: str) -> None:
    """Raise `UnreadableError` if a file has another number of entries than planned, or is another file than then."""
    if chunk.entries is not None and entries != chunk.entries and chunk.file.events is None:
        _raise_changed(chunk, f"holds {entries:,} events; {chunk.entries:,} when the run began")
    _check_events(entries, chunk.file)
    if chunk.fingerprint not in (None, chunk.file.adler32, uuid):
        _raise_changed(chunk, f"is not the file that it was when the run began (UUID {uuid}, not {chunk.fingerprint})")


def _raise_changed(chunk: Chunk, what: str) -> NoReturn:
    raise UnreadableError(
        f"{chunk.file.url}: {what}", "The file has changed, or workers see another one than this process; run again."
    )


def _check_events(found: int, file: File) -> None:
    """Raise `CampaignError` if a file does not hold as many events as the campaign states."""
    if file.events is not None and found != file.events:
        raise CampaignError(
            f"{file.url}: holds {found:,} events, the campaign says {file.events:,}",
            "Correct `events` in the campaign, or fetch the file again.",
        )


def read_leptons(chunk: Chunk) -> Leptons:
    """Read the muons and electrons of all events of a chunk, through uproot; raises as `inspect` does.

    Momenta are in GeV, angles in radians, lengths in cm; the offsets of both flavours are (n_events + 1,) int64.
    """
    source = _locate(chunk.file)
    if chunk.schema == "csv":
        return read_csv(source.location, chunk.start, chunk.stop)
    return read_root(source, chunk.start, chunk.stop)


def read_sections(chunk: Chunk) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Read run and luminosity block of all events of a chunk, each (n_events,) int64; raises as `read_leptons` does."""
    source = _locate(chunk.file)
    if chunk.schema == "csv":
        leptons = read_csv(source.location, chunk.start, chunk.stop)
        return leptons.run, leptons.luminosity_block
    names = BRANCHES["run"], BRANCHES["luminosity_block"]
    try:
        with clear_errors(source.location):
            reader = reader_of(source, unchecked=info_from_campaign(chunk.file) is not None)
            run, section = (reader.flat(name, chunk.start, chunk.stop).astype(np.int64) for name in names)
            return run, section
    except UnexpectedFormError as error:
        log.info("%s: sections read by uproot, as %s", source, error)
    with open_tree(source) as tree:
        run, section = (
            np.asarray(tree[name].array(entry_start=chunk.start, entry_stop=chunk.stop)).astype(np.int64)
            for name in names
        )
    return run, section


def read_generator(chunk: Chunk) -> Generator:
    """Read the generator weights of a chunk of NanoAOD simulation, and the ``Runs`` tree of its file.

    Raises
    ------
    SchemaError
        If a weight is not a finite number, or if the file holds more events than its ``Runs`` tree says were generated.
    """
    smallest, largest, generated = 1.0, 1.0, None
    with open_file(_locate(chunk.file)) as directory:
        tree = directory[TREE]
        if GENERATOR_WEIGHT in tree.keys():  # noqa: SIM118 - a tree is not a dict
            weights = np.asarray(tree[GENERATOR_WEIGHT].array(entry_start=chunk.start, entry_stop=chunk.stop))
            if not np.isfinite(weights).all():
                entry = chunk.start + int(np.flatnonzero(~np.isfinite(weights))[0])
                what = f"{chunk.file.url}: {GENERATOR_WEIGHT} of entry {entry} is {weights[entry - chunk.start]}"
                raise SchemaError(what, "Leave this dataset out, or fetch the file again.")
            smallest, largest = (float(weights.min()), float(weights.max())) if len(weights) else (np.inf, -np.inf)
        if "Runs" in directory.keys(cycle=False):
            runs = directory["Runs"]
            names = [name for name in runs.keys() if name.startswith("genEvent")]  # noqa: SIM118
            sums = {name.rstrip("_"): float(np.sum(np.asarray(runs[name].array()))) for name in names}
            if "genEventCount" in sums:
                generated = round(sums["genEventCount"])
            elif "genEventSumw" in sums and smallest == largest != 0:
                generated = round(sums["genEventSumw"] / smallest)
        n = int(tree.num_entries)
    if generated is not None and generated < n:
        what = f"{chunk.file.url}: holds {n:,} events, but its Runs tree says that {generated:,} were generated"
        raise SchemaError(what, "The file was merged without its Runs tree: fetch it again, or leave it out.")
    return Generator(smallest, largest, generated)


def fingerprint(file: File, info: FileInfo) -> str | None:
    """Return the checksum of a file if the campaign states it, else ROOT's UUID, else the adler32 of a CSV file."""
    if file.adler32 is not None or info.uuid is not None:
        return file.adler32 or info.uuid
    return datasets.checksum(Path(_locate(file).location))


def _locate(file: File) -> datasets.Source:
    return datasets.locate(file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32)
