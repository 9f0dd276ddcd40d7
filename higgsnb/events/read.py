"""Read chunks of event files, ROOT or CSV: any columns of preselected events, or their `Leptons`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb import datasets, storage
from higgsnb.errors import CampaignError, SchemaError, UnreadableError
from higgsnb.events import atlas, csv, skims
from higgsnb.events.columns import IDENTIFIERS, AllOf, Array, Columns, Condition, EventColumns, only
from higgsnb.events.fast.blocks import UnexpectedFormError
from higgsnb.events.leptons import FOUR_LEPTONS, to_leptons
from higgsnb.events.root import KeptFiles, clear_errors, forget, inspect_root, kept_files, read_fast, read_plain
from higgsnb.events.schema import BRANCHES, TREE, FileInfo, Read, trees_of
from higgsnb.redaction import logger
from higgsnb.selection import Leptons

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign, Chunk, File

log = logger(__name__)
Headers = Mapping[str, str | tuple[str, ...]]
"""The headers of a CSV by the names of columns, `Campaign.columns`."""


def inspect(
    file: File, schema: str, *, tree: str = TREE, headers: Headers | None = None, columns: Columns | None = None
) -> FileInfo:
    """Open a file, check that it has what will be read of it, and count its entries; no event is read.

    Parameters
    ----------
    tree, headers
        `Campaign.tree` and `Campaign.columns`.
    columns
        What will be read; None: what `Leptons` need.

    Raises
    ------
    FileNotFoundError
        If no source has the file; names each source tried.
    UnreadableError
        If it is empty, not a ROOT file, truncated or damaged.
    SchemaError
        If columns are missing (with the nearest present name) or have the wrong type, or if a friend has another number
        of entries.
    CampaignError
        If the number of entries differs from the one in the campaign.
    """
    sources = _located(file)
    versions = [source.version if source.is_remote or source.verified else _with_digest(source) for source in sources]
    with ExitStack() as stack:
        for source, one, version in zip(sources, _files(file), versions, strict=True):
            stack.enter_context(_unchanged(source, one, version.digest))
        if schema == "csv":
            info = csv.inspect_csv(sources[0].location, headers or {}, columns)
        else:
            kept = kept_files(sources, trees_of(schema, tree))
            with clear_errors(kept.location):
                wanted = Columns(tuple(_branches(schema, kept).values())) if columns is None else columns
                info = inspect_root(kept, sources[0], _in_file(wanted, schema, kept))
    _check_events(info.entries, file)
    return replace(info, version=None if sources[0].verified else versions[0], friends=tuple(versions[1:]))


def identify(
    file: File, schema: str, *, tree: str = TREE, headers: Headers | None = None, columns: Columns | None = None
) -> FileInfo:
    """Do what `inspect` does, unless the campaign states all that it would find: see `info_from_campaign`.

    Of such a file only the version is asked for, and only if it is read piecewise. Raises as `inspect` does.
    """
    stated = info_from_campaign(file)
    if stated is None or schema == "csv":
        return inspect(file, schema, tree=tree, headers=headers, columns=columns)
    source = _locate(file)
    return replace(stated, version=source.version if source.is_remote else None)


def _files(file: File) -> list[File]:
    """Return a file and its friends, of which no more is known than their addresses."""
    return [file, *(datasets.File(url) for url in file.friends)]


def _located(file: File, known: Sequence[datasets.Version | None] = ()) -> list[datasets.Source]:
    """Find a file and its friends; of the first ones the versions may be ``known``."""
    files = _files(file)
    known = [*known, *([None] * len(files))]
    return [_locate(one, version) for one, version in zip(files, known, strict=False)]


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
def opened(chunk: Chunk) -> Iterator[list[datasets.Source]]:
    """Find the file of a chunk and its friends, for reading in the block; raises as `inspect` does.

    `UnreadableError` if one has not the content that it had when the run was planned, or does not keep it in the block.
    A local file whose state is another one (it was touched, or this is another machine) is judged by its digest.
    """
    planned = _planned(chunk)
    sources = _located(chunk.file, planned)
    with ExitStack() as stack:
        for file, source, version in zip(_files(chunk.file), sources, planned, strict=True):
            _check_version(file, source, version)
            stack.enter_context(_unchanged(source, file, "" if version is None else version.digest))
        yield sources


def _planned(chunk: Chunk) -> list[datasets.Version | None]:
    """Return the versions of the file of a chunk and of its friends when the run was planned, as far as known."""
    friends = (*chunk.friend_versions, *([None] * len(chunk.file.friends)))
    return [chunk.version, *friends[: len(chunk.file.friends)]]


def _check_version(file: File, source: datasets.Source, planned: datasets.Version | None) -> None:
    """Raise `UnreadableError` if a file has not the content that it had when the run was planned."""
    if planned is not None and source.is_remote and not planned.digest:
        if difference := planned.difference(source.version):
            what = f"{file.url}: was replaced since the run began: {difference}"
            raise UnreadableError(what, planned.hint(source.version))
    elif planned is not None and planned.digest and not source.is_remote:
        is_same = source.version == planned._replace(digest="") or _with_digest(source).digest == planned.digest
        if not is_same:
            raise _changed(file, "is not the file that it was when the run began")


def info_from_campaign(file: File) -> FileInfo | None:
    """Return what the campaign states of a file if that identifies it, so that it need not be opened beforehand.

    The reader checks the file against it. None unless number of events, size and checksum are all given, or if it has
    friends, of which nothing is stated.
    """
    if file.events is None or file.bytes is None or file.adler32 is None or file.friends:
        return None
    return FileInfo(file.events, "", file.bytes, None)


def read_events(chunk: Chunk, columns: Columns) -> EventColumns:
    """Read columns of the preselected events of a chunk; raises as `inspect` does.

    Names are those of the branches, momenta are in GeV. In ATLAS files leptons are found by their flavour, too, see
    `atlas`; a CSV has the columns that the campaign names.
    """
    with opened(chunk) as sources:
        return _read(chunk, sources, columns)


def first_chunk(campaign: Campaign, dataset: str, most: int, columns: Columns | None = None) -> Chunk:
    """Return the first events, at most ``most``, of the first file of a dataset; ``columns`` will be read of them.

    The name is that of a dataset, or of a primary dataset, of which the first dataset is taken. Raises `CampaignError`
    if there is no such dataset (names the nearest), else as `inspect` does.
    """
    campaign = datasets.expand(campaign)
    primary = (one for one in campaign.datasets if one.primary_dataset == dataset)
    wanted = next(primary, None) or campaign.dataset(dataset)
    file, entries = wanted.files[0], wanted.files[0].events
    if not entries:
        info = inspect(file, campaign.schema, tree=campaign.tree, headers=campaign.columns, columns=columns)
        entries = info.entries
    alone = replace(campaign, datasets=(replace(wanted, files=(file,)),))
    return datasets.plan_chunks(alone, {file.url: entries}, most)[0]


def read_preselected(chunk: Chunk, *, columns: Columns | None = None, skims_folder: Path | None = None) -> Read:
    """Read the events of a chunk that have enough leptons for a channel, and no others.

    ``columns`` are read besides; their preselection is another one that the events pass. The skim of the chunk in
    ``skims_folder`` or in a shared cache is read if there is one, and written if there is none, see `skims`. Raises as
    `inspect` does.
    """
    with opened(chunk) as sources:
        path = None if skims_folder is None else _skim_path(chunk, sources, columns, skims_folder)
        if path is not None:
            folders = (path.parent, *storage.shared(f"skims/{path.parent.name}"))
            kept = next((found for folder in folders if (found := skims.load(folder / path.name)) is not None), None)
            if kept is not None:
                return kept
        found = _read_preselected(chunk, sources, columns)
    if path is not None:
        skims.save(found, path)  # only now is it certain that all of it was read from one content
    return found


def _skim_path(chunk: Chunk, sources: Sequence[datasets.Source], columns: Columns | None, folder: Path) -> Path | None:
    """Return where the skim of a chunk is kept; None if nothing tells its files from others."""
    if chunk.schema == "csv" or not all(source.version.has_validators for source in sources):
        return None
    identity: list[Any] = [chunk.tree]
    for file, source, version in zip(_files(chunk.file), sources, _planned(chunk), strict=True):
        if source.verified:
            identity.append([file.adler32, source.size])
        elif not source.is_remote and version is not None and version.digest:
            identity.append([version.digest])
        else:
            identity.append([source.location, *source.version])
    if columns is not None:
        identity.append([columns.names, repr(columns.preselection)])
    return skims.skim_path(folder, chunk, identity)


def _read_preselected(chunk: Chunk, sources: Sequence[datasets.Source], more: Columns | None) -> Read:
    """Read the columns of leptons, and ``more``."""
    if chunk.schema == "csv" and not chunk.columns and more is None:  # all of its events, which are candidates
        leptons = csv.read_csv(sources[0].location, chunk.start, chunk.stop)
        entries = np.arange(chunk.start, chunk.start + leptons.n_events)
        return Read(leptons, entries, leptons.n_events, "csv", "file" if sources[0].verified else "none")
    with clear_errors(sources[0].location):
        branches = _lepton_branches(chunk, sources)
    names = [name for name in branches.values() if name not in FOUR_LEPTONS.names]
    condition: Condition = FOUR_LEPTONS
    if more is not None and more.preselection is not None:
        condition = AllOf((FOUR_LEPTONS, more.preselection))
    found = _read(chunk, sources, Columns((*names, *(() if more is None else more.names)), condition))
    leptons = to_leptons(found, branches)
    read = Read(leptons, found.entries, found.n_events, found.reader, found.integrity, found.missing)
    return read if more is None else read._replace(columns=only(found, more.names))


def _lepton_branches(chunk: Chunk, sources: Sequence[datasets.Source]) -> Mapping[str, str]:
    """Return the column behind each field of `Leptons` that a file has."""
    if chunk.schema == "csv":
        return csv.lepton_columns(chunk.columns)
    return _branches(chunk.schema, kept_files(sources, trees_of(chunk.schema, chunk.tree)))


def _branches(schema: str, kept: KeptFiles) -> Mapping[str, str]:
    return atlas.lepton_columns(kept.known.names) if schema == "atlas" else BRANCHES


def _in_file(columns: Columns, schema: str, kept: KeptFiles) -> Columns:
    """Return what to read of the file for some columns: what identifies events comes in any case."""
    if schema == "atlas":
        return atlas.in_file(columns, kept.known.tree, kept.known.names)
    return Columns((*IDENTIFIERS, *columns.names), columns.preselection)


def _read(chunk: Chunk, sources: Sequence[datasets.Source], columns: Columns) -> EventColumns:
    """Read columns of preselected events, whatever the schema."""
    is_verified = all(source.verified for source in sources)
    if chunk.schema == "csv":
        found = csv.read_columns(sources[0].location, chunk.columns, columns, chunk.start, chunk.stop)
        return found._replace(integrity="file" if is_verified else "none")
    kept = _same_files(chunk, sources)
    with clear_errors(kept.location):
        asked = _in_file(columns, chunk.schema, kept)
        try:
            found = read_fast(kept, asked, chunk.start, chunk.stop)
        except UnexpectedFormError as error:
            log.info("%s: read by uproot, as %s", sources[0], error)
            found = read_plain(kept, asked, chunk.start, chunk.stop)
        if is_verified:
            found = found._replace(integrity="file")
        return atlas.in_nanoaod(found, columns, kept.known.tree) if chunk.schema == "atlas" else found


def _same_files(chunk: Chunk, sources: Sequence[datasets.Source]) -> KeptFiles:
    """Return the files of a chunk; raise `UnreadableError` if they are others than when the run was planned."""
    trees = trees_of(chunk.schema, chunk.tree)
    kept = kept_files(sources, trees)
    with clear_errors(kept.location):
        if sources[0].is_remote and chunk.fingerprint not in (None, chunk.file.adler32, kept.known.uuid):
            forget()  # it may be the one of an earlier run, of a server that names no version
            kept = kept_files(sources, trees)
        known = kept.known
    _check_same(chunk, known.n_entries, known.uuid)
    return kept


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
    with opened(chunk) as sources, clear_errors(sources[0].location):
        if chunk.schema == "csv" and not chunk.columns:
            return csv.read_csv(sources[0].location, chunk.start, chunk.stop)
        branches = _lepton_branches(chunk, sources)
        columns = Columns(tuple(branches.values()))
        if chunk.schema == "csv":
            found = csv.read_columns(sources[0].location, chunk.columns, columns, chunk.start, chunk.stop)
        else:
            kept = kept_files(sources, trees_of(chunk.schema, chunk.tree))
            found = read_plain(kept, _in_file(columns, chunk.schema, kept), chunk.start, chunk.stop)
            found = atlas.in_nanoaod(found, columns, kept.known.tree) if chunk.schema == "atlas" else found
        return to_leptons(found, branches)


def read_sections(chunk: Chunk) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Read run and luminosity block of all events of a chunk, each (n_events,) int64; raises as `read_leptons` does."""
    names = ("run", "luminosityBlock")
    with opened(chunk) as sources:
        found = read_flat(chunk, sources, names, chunk.start, chunk.stop)
    run, section = (found[name].astype(np.int64) for name in names)
    return run, section


def read_flat(
    chunk: Chunk, sources: Sequence[datasets.Source], names: Sequence[str], start: int, stop: int
) -> dict[str, Array]:
    """Read columns with one value per event, of all entries ``start`` to ``stop`` of the file of a chunk.

    Raises as `inspect` does, and `SchemaError` for a column that has several values per event.
    """
    found = None
    if chunk.schema not in ("atlas", "csv"):
        kept = kept_files(sources, trees_of(chunk.schema, chunk.tree))
        try:
            with clear_errors(kept.location):
                found = kept.table(names, start, stop)
        except UnexpectedFormError as error:
            log.info("%s: %s read by uproot, as %s", kept.location, ", ".join(names), error)
    if found is None:
        found = _read(replace(chunk, start=start, stop=stop), sources, Columns(tuple(names))).flat
    if lists := [name for name in names if name not in found]:
        what = f"{chunk.file.url}: {lists[0]} has several values per event, but one is needed"
        raise SchemaError(what, "Name a column with one value per event.")
    return found


def fingerprint(file: File, info: FileInfo) -> str | None:
    """Return the checksum of a file if the campaign states it, else ROOT's UUID, None for a CSV file."""
    return file.adler32 or info.uuid


def _locate(file: File, known: datasets.Version | None = None) -> datasets.Source:
    return datasets.locate(file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32, known=known)
