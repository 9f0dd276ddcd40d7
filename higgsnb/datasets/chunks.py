"""Split a campaign into chunks, and compare the opened files with what the campaign states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from higgsnb.datasets.campaign import Campaign, Chunk, File, short_name
from higgsnb.datasets.files.addresses import Address
from higgsnb.errors import CampaignError, OptionError
from higgsnb.redaction import redact

MOST_CHUNKS = 2_000_000
"""Most chunks of a campaign: they take half a kilobyte each, and all of CMS Open Data is 250,000 of the usual size."""


def plan_chunks(
    campaign: Campaign, entries: Mapping[str, int], chunk_events: int, fraction: float = 1.0
) -> list[Chunk]:
    """Split a campaign into chunks, ordered so that all datasets progress in step.

    Chunks are ordered by their relative position in their dataset, then as in the campaign: at any moment about the
    same share of every dataset has been processed. They start at multiples of ``chunk_events`` whatever the fraction,
    so that a larger fraction repeats the smaller one's chunks. A file without entries has one empty chunk, so that it
    is opened and reported like the others.

    Parameters
    ----------
    entries
        Number of entries of each file, by its ``url``; for files that are not in it, their ``events`` count.
    chunk_events
        Largest number of events in a chunk; a chunk never spans two files.
    fraction
        The first ``round(fraction * entries)`` entries of each file are taken; 0 < fraction <= 1.

    Raises
    ------
    OptionError
        If a number is out of range, the number of entries of a file is not known, or there would be too many chunks.
    """
    if chunk_events < 1:
        raise OptionError(f"chunk_events must be at least 1, got {chunk_events}", "The default is a good choice.")
    if not 0 < fraction <= 1:
        raise OptionError(f"fraction must be above 0 and at most 1, got {fraction}", "1 stands for all events.")
    placed: list[tuple[float, Chunk]] = []
    n_chunks = 0
    for index, dataset in enumerate(campaign.datasets):
        if not dataset.is_expanded:
            raise OptionError(
                f"the files of dataset {dataset.name!r} are not listed yet", "Call datasets.expand first."
            )
        counts = [_entries(file, entries) for file in dataset.files]
        n_chunks += sum(-(-round(fraction * count) // chunk_events) for count in counts)
        if n_chunks > MOST_CHUNKS:
            raise OptionError(
                f"more than {MOST_CHUNKS:,} chunks of {chunk_events:,} events, up to dataset {dataset.name!r} "
                f"({sum(counts):,} events)",
                "Use larger chunks (--chunk-events) or a smaller fraction; or correct `events` in the campaign.",
            )
        total, before = max(1, sum(counts)), 0
        for number, (file, count) in enumerate(zip(dataset.files, counts, strict=True)):
            wanted = round(fraction * count)
            for start in range(0, wanted, chunk_events) if count else (0,):
                chunk = Chunk(
                    dataset=dataset.name,
                    dataset_index=index,
                    file_index=number,
                    file=file,
                    schema=campaign.schema,
                    primary_dataset=dataset.primary_dataset,
                    is_data=dataset.is_data,
                    process=dataset.process,
                    start=start,
                    stop=min(start + chunk_events, wanted),
                    golden_json=campaign.golden_json if dataset.is_data else None,  # it certifies data only
                    entries=count,
                    sections=dataset.is_data and campaign.has_sections,
                    **campaign.reading(dataset),
                )
                placed.append(((before + start) / total, chunk))
            before += count
    return [chunk for _, chunk in sorted(placed, key=lambda item: item[0])]


def _entries(file: File, entries: Mapping[str, int]) -> int:
    count = entries.get(file.url, file.events)
    if count is None:
        raise OptionError(
            f"the number of entries of {short_name(file.url)} is not known", "State its `events`, or open it first."
        )
    if count < 0:
        raise OptionError(f"{short_name(file.url)} cannot have {count} entries", "Correct its `events`.")
    return count


class Opened(Protocol):
    """What is known of a file once it is open, such as `events.FileInfo`.

    ``uuid`` is ROOT's, drawn when the file was made and the same in each copy; None if it is not a ROOT file.
    """

    @property
    def entries(self) -> int: ...  # noqa: D102
    @property
    def bytes(self) -> int | None: ...  # noqa: D102
    @property
    def uuid(self) -> str | None: ...  # noqa: D102


def check_files(campaign: Campaign, opened: Mapping[tuple[int, int], Opened]) -> dict[tuple[int, int], tuple[str, str]]:
    """Find duplicate files (same UUID, entries and size), and compare the others with what the campaign states.

    Parameters
    ----------
    opened
        The files that could be opened, by (dataset, file) in the order of the campaign.

    Returns
    -------
    dict of (int, int) to (str, str)
        For each file to leave out, a message that names it and the one it repeats, and a hint.

    Raises
    ------
    CampaignError
        If a file or a dataset does not have the number of events that the campaign states.
    """
    duplicates: dict[tuple[int, int], tuple[str, str]] = {}
    seen: dict[tuple[object, ...], str] = {}
    for (index, number), info in sorted(opened.items(), key=lambda item: item[0]):
        if info.uuid is None:
            continue
        dataset = campaign.datasets[index]
        name = f"{redact(dataset.files[number].url)} in dataset '{dataset.name}'"
        first = seen.setdefault((info.uuid, info.entries, info.bytes), name)
        if first != name:
            duplicates[index, number] = (
                f"{name} is the same file as {first} (UUID {info.uuid}, {info.entries:,} events)",
                "Remove one, or give the other as one of its `alternatives`.",
            )
    check_totals(campaign, {key: info.entries for key, info in opened.items() if key not in duplicates})
    return duplicates


def check_listing(campaign: Campaign, label: str) -> None:
    """Raise `CampaignError` for a file or index that is listed twice, and where files and record disagree.

    Files are the same if they share an address, or size and checksum. Compared with the record are the number of files
    and their bytes, as far as they are stated; ``label`` begins the message.
    """
    seen: dict[object, str] = {}
    for dataset in campaign.datasets:
        for file in (*dataset.index, *dataset.files):
            marks: set[object] = {Address.of(url).canonical for url in (file.url, *file.alternatives)}
            if not file.is_unmarked:
                marks.add((file.bytes, file.adler32))
            for mark in marks & seen.keys():
                here = f"{short_name(file.url)} in dataset '{dataset.name}'"
                raise CampaignError(f"{label}: the same file is listed twice: {here} and {seen[mark]}", "Remove one.")
            seen |= dict.fromkeys(marks, f"{short_name(file.url)} in '{dataset.name}'")
    for dataset in campaign.datasets:
        for what, stated, found in (
            ("files", dataset.stated_files, dataset.n_files),
            ("bytes", dataset.stated_bytes, dataset.bytes),
        ):
            if None in (stated, found) or stated == found:
                continue
            listed = f", the first of them {redact(dataset.files[0].url)}" if dataset.files else ""
            raise CampaignError(
                f"{label}: dataset '{dataset.name}' should have {stated:,} {what}, its list has {found:,}{listed}",
                "The list may lack a file or index, or have one of another dataset; or correct the record's totals.",
            )


def check_totals(campaign: Campaign, entries: Mapping[tuple[int, int], int], *, label: str = "") -> None:
    """Compare the entries of files with what the campaign states of each file and of each dataset.

    Parameters
    ----------
    entries
        Number of entries of the files that could be opened, by (dataset, file) in the order of the campaign. For a
        file that is not in it, its ``events``; where neither is known, the dataset may have too few events.
    label
        Beginning of the message, the campaign's name by default.

    Raises
    ------
    CampaignError
        For the first contradiction; the message names the files and both numbers.
    """
    label = label or f"campaign '{campaign.name}'"
    for index, dataset in enumerate(campaign.datasets):
        if not dataset.is_expanded:
            continue
        counts = [entries.get((index, number), file.events) for number, file in enumerate(dataset.files)]
        for file, count in zip(dataset.files, counts, strict=True):
            if file.events is not None and count != file.events:
                raise CampaignError(
                    f"{label}: {short_name(file.url)} in dataset '{dataset.name}' holds {count:,} events, the campaign "
                    f"says {file.events:,}",
                    "Correct `events` of this file, or fetch it again.",
                )
        stated, found = dataset.stated_events, sum(count for count in counts if count is not None)
        if stated is None or found == stated or (found < stated and None in counts):
            continue
        listed = [
            f"{short_name(file.url)} ({'?' if count is None else format(count, ',')})"
            for file, count in zip(dataset.files, counts, strict=True)
        ]
        more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
        surplus = found - stated
        fitting = [short_name(file.url) for file, count in zip(dataset.files, counts, strict=True) if count == surplus]
        hint = f"{surplus:,} too many: a file may belong to another dataset, or `events` is wrong."
        if surplus < 0:
            hint = f"A file with {-surplus:,} events may be missing from the list, or `events` is wrong."
        elif fitting:
            hint = f"The total would agree without {' or '.join(fitting)}: remove that file, or correct `events`."
        raise CampaignError(
            f"{label}: dataset '{dataset.name}' should have {stated:,} events, its files have {found:,}: "
            f"{', '.join(listed[:8])}{more}",
            hint,
        )
