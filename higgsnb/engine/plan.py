"""What a run has to do: which files can be read, the chunks they are split into, and what identifies each."""

from __future__ import annotations

import builtins
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from higgsnb import datasets, errors, events, provenance
from higgsnb.datasets import counted_tries
from higgsnb.engine.executors import Threads
from higgsnb.engine.ledger import chunk_keys
from higgsnb.errors import FileError, OptionError, SchemaError, did_you_mean
from higgsnb.redaction import logger
from higgsnb.results import Failure, FileKey, Tally, columns_for
from higgsnb.selection import Selection

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign, Chunk, File
    from higgsnb.events import Columns, FileInfo
    from higgsnb.selection import Analysis

log = logger(__name__)

CHUNK_EVENTS = 250_000
"""Events in a chunk unless asked otherwise: about 50 MB of columns in the outreach schema."""
HEARTBEAT_SECONDS = 5.0
"""A run yields a result at least this often, even if nothing is new: a sign of life, and a moment to stop it."""
INSPECTORS = 8
"""Least number of threads that open files before a run; they mostly wait."""


class Inspection(NamedTuple):
    """What is known of the files of a campaign before the work begins.

    ``files`` and ``failures`` by place in the catalogue; ``tries`` as in `request.counted_tries`; ``complete`` if no
    file is left to open.
    """

    files: Mapping[FileKey, FileInfo]
    failures: Mapping[FileKey, Failure]
    tries: Mapping[str, int]
    complete: bool


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    ``files`` holds number of entries and identity of every file that is analysed, by its place in the catalogue;
    ``failures`` those that are not: they could not be opened, or are duplicates. ``chunks`` are in the order in which
    to count them, each with what lets a worker recognise its file and golden JSON; ``analyse`` counts one of them.
    If ``strict``, the first failure ends the run.
    """

    campaign: Campaign
    selection: Analysis
    files: Mapping[FileKey, FileInfo]
    failures: Mapping[FileKey, Failure]
    chunks: tuple[Chunk, ...]
    analyse: Callable[..., Tally]
    strict: bool

    @cached_property
    def keys(self) -> list[bytes]:
        """The ledger's key of each chunk."""
        urls = [self.campaign.datasets[d].files[f].url for (d, f), info in self.files.items() if _is_unmarked(info)]
        if urls:
            log.warning(
                "%s%s may have been replaced, as the server gives neither ETag nor Last-Modified: "
                "what earlier runs counted is not used",
                datasets.redact(urls[0]),
                f" and {len(urls) - 1:,} more" * (len(urls) > 1),
            )
        return chunk_keys(self.chunks, {key: self._identity(key) for key in self.files})

    @cached_property
    def _selection_digest(self) -> str:
        return self.selection.digest

    def _identity(self, key: FileKey) -> dict[str, Any]:
        """Return everything but the range of entries that can change what is counted in a chunk of a file."""
        dataset, info = self.campaign.datasets[key[0]], self.files[key]
        content: Any = None if info.version is None else info.version.digest or info.version
        if _is_unmarked(info):
            content = uuid.uuid4().hex  # of this run
        file, reading = dataset.files[key[1]], self.campaign.reading(dataset)
        reading |= {"friends": file.friends} if file.friends else {}
        return {
            **({"reading": reading} if reading else {}),
            "place": key,
            "file": [info.bytes, info.entries, file.adler32],
            "version": content,
            "friends": [version.digest or version for version in info.friends],
            "marks": _marks(self.campaign, key, info),
            "schema": [self.campaign.schema, self.campaign.tree, dict(self.campaign.columns)],
            "weight": [dataset.weight, dataset.sum_of_weights],
            "primary_dataset": dataset.primary_dataset,
            "is_data": dataset.is_data,
            "sections": dataset.is_data and self.campaign.has_sections,
            "selection": self._selection_digest,
            "code": provenance.sources_sha256(*provenance.RESULT_MODULES),
            "analyse": f"{self.analyse.__module__}.{self.analyse.__qualname__}",
            "libraries": {**provenance.libraries(), **self.selection.libraries},
        }


def failure(
    campaign: Campaign, key: FileKey, error: str, message: str, hint: str, *,
    strict: bool, cause: Exception | None = None,
) -> Failure:  # fmt: skip
    """Describe a file that could not be analysed, without secrets; raise FileError instead if ``strict``."""
    if strict:
        raise FileError(message, hint) from cause
    dataset = campaign.datasets[key[0]]
    return Failure(dataset.name, dataset.files[key[1]].url, error, message, hint)


def check_readable(campaign: Campaign, selection: Analysis, failures: Mapping[FileKey, Failure]) -> None:
    """Raise FileError if no file of a campaign could be read; the message gives the most frequent reason.

    Only files that were read and refused, such as those of another schema, are no reason; unless it is an analysis of
    one's own that asks for what none of them has.
    """
    reasons = OSError if isinstance(selection, Selection) else (OSError, SchemaError)
    kinds = {failure.error for failure in failures.values()}
    n_files = sum(len(dataset.files) for dataset in campaign.datasets)
    classes = (getattr(errors, name, getattr(builtins, name, object)) for name in kinds)
    if not n_files or len(failures) < n_files or not any(issubclass(kind, reasons) for kind in classes):
        return
    failed = tuple(failures[key] for key in sorted(failures))
    what, *_, hint = next(Failure.described(failed))
    message = failed[0].message if n_files == 1 else f"none of the {n_files:,} files can be read: {what}"
    error = FileError(message, failed[0].hint if n_files == 1 else hint)
    error.failed = failed
    raise error


def check_primary_datasets(campaign: Campaign, selection: Analysis) -> None:
    """Raise OptionError if the selection takes no channel from the primary dataset of some data."""
    for dataset in campaign.datasets:
        if dataset.is_data and not selection.channels(dataset.primary_dataset):
            known, hint = "", "Leave the dataset out of the campaign, or correct primary_datasets of the analysis."
            if isinstance(selection, Selection):
                names = selection.primary_dataset_precedence
                known = f"; it knows {', '.join(names)}"
                hint = f"{did_you_mean(str(dataset.primary_dataset), names)} Or use open2012, which takes all from all."
            raise OptionError(
                f"{selection.name} takes no {selection.binning.category} from primary dataset "
                f"{dataset.primary_dataset!r} of {dataset.name}{known}",
                hint,
            )


def inspect_files(campaign: Campaign, selection: Analysis | None = None, *, strict: bool) -> Iterator[Inspection]:
    """Find the number of entries and the identity of every file: from the campaign if it says all, else by opening it.

    A file that is opened has to have the columns that the selection reads; None: those of leptons.

    Of a file that is read piecewise from its server the present version is asked for in any case.

    Yields what is known every `HEARTBEAT_SECONDS`, and once at the end, then ``complete``. Raises FileError for the
    first file that cannot be opened, if ``strict``.
    """
    files: dict[FileKey, FileInfo] = {}
    failures: dict[FileKey, Failure] = {}
    unknown = []
    for key in ((d, f) for d, dataset in enumerate(campaign.datasets) for f in range(len(dataset.files))):
        file = campaign.datasets[key[0]].files[key[1]]
        info = events.info_from_campaign(file)
        if info is None or campaign.schema == "csv" or datasets.is_streamed(file.url, file.bytes):
            unknown.append(key)
        else:
            files[key] = info
    threads = max(INSPECTORS, 2 * provenance.available_cores())
    tries: dict[str, int] = {}
    pool = Threads(threads, "higgsnb-inspect")
    heartbeat_due = time.monotonic() + HEARTBEAT_SECONDS
    try:
        for done in _inspected(pool, campaign, selection, unknown, tries, most=4 * threads):
            for key, future in done.items():
                try:
                    files[key] = future.result()
                except (OSError, ValueError, MemoryError) as error:
                    what = errors.describe(error, campaign.datasets[key[0]].files[key[1]].url)
                    failures[key] = failure(campaign, key, type(error).__name__, *what, strict=strict, cause=error)
            if time.monotonic() >= heartbeat_due:
                yield Inspection(dict(files), dict(failures), {}, complete=False)
                heartbeat_due = time.monotonic() + HEARTBEAT_SECONDS
    finally:
        pool.close()
    yield Inspection(files, failures, tries, complete=True)


def _inspected(
    pool: Threads, campaign: Campaign, selection: Analysis | None, keys: Iterable[FileKey],
    tries: dict[str, int], *, most: int,
) -> Iterator[dict[FileKey, Future[FileInfo]]]:  # fmt: skip
    """Inspect files, at most ``most`` at a time; yield those that are done at least once a second, maybe none."""
    reading: dict[str, Any] = {"tree": campaign.tree, "headers": campaign.columns}
    wanted = [None if selection is None else columns_for(selection, campaign, one) for one in campaign.datasets]

    def inspect(file: File, columns: Columns | None) -> FileInfo:
        with counted_tries(tries):
            return events.identify(file, campaign.schema, columns=columns, **reading)

    left = iter(keys)
    waiting: dict[Future[FileInfo], FileKey] = {}
    while True:
        for key in islice(left, most - len(waiting)):
            waiting[pool.submit(inspect, campaign.datasets[key[0]].files[key[1]], wanted[key[0]])] = key
        if not waiting:
            return
        done = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED).done
        yield {waiting.pop(future): future for future in done}


def make(
    campaign: Campaign, selection: Analysis, inspection: Inspection, *,
    chunk_events: int, fraction: float, analyse: Callable[..., Tally], strict: bool,
) -> Plan:  # fmt: skip
    """Leave out duplicate files, and split the others into chunks.

    Raises
    ------
    FileError
        If ``strict`` and a file is listed under two addresses.
    OptionError, CampaignError
        If a number is out of range, or a dataset has not as many events as the campaign says.
    """
    files, failures = dict(inspection.files), dict(inspection.failures)
    for key, message in datasets.check_files(campaign, files).items():
        del files[key]
        failures.setdefault(key, failure(campaign, key, "DuplicateFileError", *message, strict=strict))
    entries = dict.fromkeys((file.url for file in campaign.files), 0)
    entries |= {campaign.datasets[d].files[f].url: info.entries for (d, f), info in files.items()}
    marks = {key: _marks(campaign, key, info) for key, info in files.items()}
    for key, info in files.items():
        dataset = campaign.datasets[key[0]]
        marks[key]["weighted"] = info.weighted or dataset.weight is not None or dataset.sum_of_weights is not None
        if info.version is not None:
            marks[key]["version"] = info.version
        if info.friends:
            marks[key]["friend_versions"] = info.friends
    chunks = []
    for chunk in datasets.plan_chunks(campaign, entries, chunk_events, fraction):
        found = marks.get((chunk.dataset_index, chunk.file_index))
        if found is not None:
            chunks.append(replace(chunk, **found) if found else chunk)
    return Plan(campaign, selection, files, failures, tuple(chunks), analyse, strict)


def _is_unmarked(info: FileInfo) -> bool:
    """Whether nothing tells the content of a file from an earlier or later one of its size."""
    versions = (*info.friends, *(() if info.version is None else (info.version,)))
    return not all(version.has_validators for version in versions)


def _marks(campaign: Campaign, key: FileKey, info: FileInfo) -> dict[str, Any]:
    """Return by what a worker recognises that file and golden JSON are those that the plan was made with."""
    dataset = campaign.datasets[key[0]]
    marks: dict[str, Any] = {}
    if dataset.is_data and campaign.golden_json is not None:
        marks["mask"] = datasets.kept_mask(campaign.golden_json).digest
    if info.kind and (fingerprint := events.fingerprint(dataset.files[key[1]], info)):
        marks["fingerprint"] = fingerprint
    return marks
