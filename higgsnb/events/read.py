"""Read chunks of event files, ROOT or CSV, as `Leptons`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb import datasets, storage
from higgsnb.errors import CampaignError, SchemaError, UnreadableError
from higgsnb.events import skims
from higgsnb.events.csv import inspect_csv, read_csv
from higgsnb.events.fast import preselected
from higgsnb.events.fast.blocks import UnexpectedFormError
from higgsnb.events.root import clear_errors, inspect_root, kept_reader, open_file, open_tree, read_root, reader_of
from higgsnb.events.schema import BRANCHES, GENERATOR_WEIGHT, TREE, FileInfo, Generator, Read
from higgsnb.redaction import logger
from higgsnb.selection import Leptons

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk, File

log = logger(__name__)
SAME_WEIGHTS = 1e-6
"""Relative difference of two weights, or of (Σw)² and N Σw², up to which all weights are the same."""


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
    version = source.version if source.is_remote or source.verified else _with_digest(source)
    with _unchanged(source, file, version.digest):
        info = inspect_csv(source.location) if schema == "csv" else inspect_root(source)
    _check_events(info.entries, file)
    return replace(info, version=None if source.verified else version)


def identify(file: File, schema: str) -> FileInfo:
    """Do what `inspect` does, unless the campaign states all that it would find: see `info_from_campaign`.

    Of such a file only the version is asked for, and only if it is read piecewise. Raises as `inspect` does.
    """
    stated = info_from_campaign(file)
    if stated is None or schema == "csv":
        return inspect(file, schema)
    source = _locate(file)
    return replace(stated, version=source.version if source.is_remote else None)


def _with_digest(source: datasets.Source) -> datasets.Version:
    """Return the version of a local file with the digest of its content."""
    return source.version._replace(digest=datasets.content_digest(Path(source.location)))


@contextmanager
def _unchanged(source: datasets.Source, file: File, digest: str) -> Iterator[None]:
    """Raise `UnreadableError` if a local file is changed in the block; of a remote one each answer is compared."""
    try:
        yield
    except (OSError, ValueError) as error:
        if _is_changed(source, file, digest):
            raise _changed(file, "was changed while it was read") from error
        raise
    if _is_changed(source, file, digest):
        raise _changed(file, "was changed while it was read")


def _is_changed(source: datasets.Source, file: File, digest: str) -> bool:
    """Whether a local file has another content than when it was located; one that was only touched has not."""
    try:
        if source.is_remote or datasets.Version.of_file(source.location) == source.version:
            return False
        return not _locate(file).verified if source.verified else _with_digest(source).digest != digest
    except OSError:
        return True


@contextmanager
def _opened(chunk: Chunk) -> Iterator[datasets.Source]:
    """Find the file of a chunk, for reading in the block; raises as `inspect` does.

    `UnreadableError` if it has not the content that it had when the run was planned, or does not keep it in the block.
    A local file whose state is another one (it was touched, or this is another machine) is judged by its digest.
    """
    source, planned = _locate(chunk.file, chunk.version), chunk.version
    if planned is not None and source.is_remote and not planned.digest:
        if difference := planned.difference(source.version):
            what = f"{chunk.file.url}: was replaced since the run began: {difference}"
            raise UnreadableError(what, planned.hint(source.version))
    elif planned is not None and planned.digest and not source.is_remote:
        is_same = source.version == planned._replace(digest="") or _with_digest(source).digest == planned.digest
        if not is_same:
            raise _changed(chunk.file, "is not the file that it was when the run began")
    with _unchanged(source, chunk.file, "" if planned is None else planned.digest):
        yield source


def info_from_campaign(file: File) -> FileInfo | None:
    """Return what the campaign states of a file if that identifies it, so that it need not be opened beforehand.

    The reader checks the file against it. None unless number of events, size and checksum are all given.
    """
    if file.events is None or file.bytes is None or file.adler32 is None:
        return None
    return FileInfo(file.events, "", file.bytes, None)


def read_preselected(chunk: Chunk, *, skims_folder: Path | None = None) -> Read:
    """Read the events of a chunk that have enough leptons for a channel, and no others.

    The skim of the chunk in ``skims_folder`` or in a shared cache is read if there is one, and written if there is
    none, see `skims`. Raises as `inspect` does.
    """
    with _opened(chunk) as source:
        if skims_folder is None or chunk.schema == "csv" or not source.version.has_validators:
            return _read_preselected(chunk, source)
        identity: list[Any] = [source.location, *source.version]
        if source.verified:
            identity = [chunk.file.adler32, source.size]
        elif not source.is_remote and chunk.version is not None and chunk.version.digest:
            identity = [chunk.version.digest]
        path = skims.skim_path(skims_folder, chunk, identity)
        folders = (path.parent, *storage.shared(f"skims/{path.parent.name}"))
        kept = next((found for folder in folders if (found := skims.load(folder / path.name)) is not None), None)
        if kept is not None:
            return kept
        kept = _read_preselected(chunk, source)
    skims.save(kept, path)  # only now is it certain that all of it was read from one content
    return kept


def _read_preselected(chunk: Chunk, source: datasets.Source) -> Read:
    whole = "file" if source.verified else "none"
    if chunk.schema == "csv":
        return _all_events(read_csv(source.location, chunk.start, chunk.stop), chunk, "csv", whole)
    try:
        with clear_errors(source.location):
            reader = reader_of(source, unchecked=info_from_campaign(chunk.file) is not None)
            if source.is_remote and chunk.fingerprint not in (None, chunk.file.adler32, reader.uuid):
                kept_reader.cache_clear()  # it may be the one of an earlier run, of a server that names no version
                reader = reader_of(source, unchecked=False)
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
        raise _changed(chunk.file, f"holds {entries:,} events; {chunk.entries:,} when the run began")
    _check_events(entries, chunk.file)
    if chunk.fingerprint not in (None, chunk.file.adler32, uuid):
        what = f"is not the file that it was when the run began (UUID {uuid}, not {chunk.fingerprint})"
        raise _changed(chunk.file, what)


def _changed(file: File, what: str) -> UnreadableError:
    hint = "The file has changed, or workers see another one than this process; run again."
    return UnreadableError(f"{file.url}: {what}", hint)


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
    with _opened(chunk) as source:
        if chunk.schema == "csv":
            return read_csv(source.location, chunk.start, chunk.stop)
        return read_root(source, chunk.start, chunk.stop)


def read_sections(chunk: Chunk) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Read run and luminosity block of all events of a chunk, each (n_events,) int64; raises as `read_leptons` does."""
    with _opened(chunk) as source:
        if chunk.schema != "csv":
            return _read_sections(chunk, source)
        leptons = read_csv(source.location, chunk.start, chunk.stop)
        return leptons.run, leptons.luminosity_block


def _read_sections(chunk: Chunk, source: datasets.Source) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
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
    """Read the generator weights of a chunk of simulation, and the ``Runs`` tree of its file, as NanoAOD has them.

    Raises
    ------
    SchemaError
        If a weight is not a finite number, or if it cannot be told how many events were generated: the file holds more
        than its ``Runs`` tree says, or that has a sum of weights, but no event shows what a weight is.
    """
    smallest, largest = 1.0, 1.0
    with _opened(chunk) as source:
        has_weights, sums, n_events = _generator_of(source, source.version)
        if has_weights:
            with open_tree(source) as tree:
                weights = np.asarray(tree[GENERATOR_WEIGHT].array(entry_start=chunk.start, entry_stop=chunk.stop))
            if not np.isfinite(weights).all():
                entry = chunk.start + int(np.flatnonzero(~np.isfinite(weights))[0])
                what = f"{chunk.file.url}: {GENERATOR_WEIGHT} of entry {entry} is {weights[entry - chunk.start]}"
                raise SchemaError(what, "Leave this dataset out, or fetch the file again.")
            smallest, largest = (float(weights.min()), float(weights.max())) if len(weights) else (np.inf, -np.inf)
    count, sumw, sumw2 = (sums.get(f"genEvent{name}") for name in ("Count", "Sumw", "Sumw2"))
    hint = "Leave this dataset out, or make the skim again with genWeight in Events and all of genEvent… in Runs."
    generated = count
    is_same = math.isclose(smallest, largest, rel_tol=SAME_WEIGHTS)  # not so if there is no event
    if has_weights and is_same and smallest:
        generated = count if sumw is None else sumw / smallest
        if generated is not None and generated <= 0:
            raise SchemaError(f"{chunk.file.url}: the sum of its generator weights is {sumw:g}", hint)
    elif sumw is not None and (is_same or smallest > largest):  # no event that shows what the weights are
        if count is None:
            what = "its Runs tree has a sum of weights, but no event shows a weight"
            raise SchemaError(f"{chunk.file.url}: {what}", hint)
        if sumw2 is not None and not math.isclose(sumw**2, sumw2 * count, rel_tol=SAME_WEIGHTS):
            what = "its Runs tree says that weights differ, but no event shows its own"
            raise SchemaError(f"{chunk.file.url}: {what}", hint)
    at_least = generated if count is None else count
    if at_least is not None and at_least < n_events:
        what = (
            f"{chunk.file.url}: holds {n_events:,} events, but its Runs tree says that {at_least:,.0f} were generated"
        )
        raise SchemaError(what, "The file was merged without its Runs tree: fetch it again, or leave it out.")
    return Generator(smallest, largest, None if generated is None else round(generated))


@lru_cache(maxsize=64)
def _generator_of(source: datasets.Source, _version: datasets.Version) -> tuple[bool, dict[str, float], int]:
    """Return whether a file has generator weights, the sums over its ``Runs`` tree by name, and its number of events.

    It is opened once for all of its chunks.
    """
    with open_file(source) as directory:
        tree, sums = directory[TREE], dict[str, float]()
        if "Runs" in directory.keys(cycle=False):
            runs = directory["Runs"]
            for name in getattr(runs, "keys", list)():
                if name.rstrip("_") in ("genEventCount", "genEventSumw", "genEventSumw2"):
                    sums[name.rstrip("_")] = _sum(source.location, name, runs[name].array())
        return GENERATOR_WEIGHT in tree.keys(), sums, int(tree.num_entries)  # noqa: SIM118


def _sum(location: str, name: str, column: Any) -> float:
    """Return the sum of a branch of the tree ``Runs``; SchemaError if that is not a number."""
    try:
        total = float(np.sum(np.asarray(column, np.float64)))
    except (TypeError, ValueError):
        total = math.nan
    if not math.isfinite(total):
        what = f"{location}: {name} of its Runs tree is not one number per row"
        raise SchemaError(what, "Leave this dataset out, or make the skim again.")
    return total


def fingerprint(file: File, info: FileInfo) -> str | None:
    """Return the checksum of a file if the campaign states it, else ROOT's UUID, None for a CSV file."""
    return file.adler32 or info.uuid


def _locate(file: File, known: datasets.Version | None = None) -> datasets.Source:
    return datasets.locate(file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32, known=known)
