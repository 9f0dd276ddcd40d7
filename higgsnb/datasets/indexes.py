"""File indexes: the lists of a dataset's files as the CERN Open Data portal serves them, fetched and expanded.

An index is a JSON list of objects with ``uri`` (the address by xrootd), ``size`` in bytes, ``checksum`` ("adler32:…")
and ``filename``. What the portal's storage serves by xrootd it serves over https as well: that comes first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from higgsnb.datasets.campaign import Campaign, Dataset, File
from higgsnb.datasets.chunks import check_listing
from higgsnb.datasets.files.addresses import NETWORK, Address
from higgsnb.datasets.files.request import FileRequest
from higgsnb.datasets.files.sources import fetch
from higgsnb.datasets.files.versions import Version
from higgsnb.errors import CampaignError, ChecksumError, MissingFileError, TransferError
from higgsnb.redaction import redact
from higgsnb.text import DOCUMENT_BYTES, is_one_line, read_text, shown

XROOTD, HTTPS = "root://eospublic.cern.ch//eos/opendata/", "https://opendata.cern.ch/eos/opendata/"
"""Beginnings of the two addresses of a file of the portal."""
MOST_FILES = 100_000
"""Most files of one index; the portal's have up to 1,500."""
THREADS = 8
"""How many indexes are fetched at once."""
FORM = 'An index is [{"uri": …, "size": …, "checksum": "adler32:…"}, …], as the CERN Open Data portal serves it.'


def expand(campaign: Campaign) -> Campaign:
    """Return a campaign with the files that its indexes list; itself if they are there.

    The indexes are fetched, verified and kept in the cache, so that nothing has to be fetched the next time. The digest
    of the campaign stays the same.

    Raises
    ------
    CampaignError
        If an index has another form, a file is listed twice, or the files are not as many as the dataset's record says.
    MissingFileError, TransferError, ChecksumError
        If an index cannot be had; the hint says how to go on without a network.
    """
    wanted = [index for dataset in campaign.datasets if not dataset.is_expanded for index in dataset.index]
    if not wanted:
        return campaign
    paths = dict(zip(wanted, _fetched(campaign, wanted), strict=True))
    datasets = tuple(dataset if dataset.is_expanded else _expanded(dataset, paths) for dataset in campaign.datasets)
    expanded = replace(campaign, datasets=datasets)
    check_listing(expanded, campaign.source or f"campaign '{campaign.name}'")
    return expanded


def _expanded(dataset: Dataset, paths: Mapping[File, Path]) -> Dataset:
    files: list[File] = []
    for index in dataset.index:
        files += _files(index, paths[index], Version.of_file(paths[index]))
    return replace(dataset, files=tuple(file.with_friends(dataset.friends) for file in files))


def _fetched(campaign: Campaign, wanted: list[File]) -> list[Path]:
    """Return where each index is. The first is fetched alone, so that an outage is noticed, and told, once."""
    first, *others = wanted
    try:
        paths = [_fetch(first)]
        with ThreadPoolExecutor(THREADS, "higgsnb-index") as pool:
            return [*paths, *pool.map(_fetch, others)]
    except (MissingFileError, TransferError, ChecksumError) as error:
        what = f"campaign '{campaign.name}': one of its {len(wanted)} file indexes: " * (len(wanted) > 1)
        hint = error.hint
        if not isinstance(error, ChecksumError) and Address.of(first.url).is_remote:
            name = campaign.name if campaign.source in ("", f"{campaign.name}.toml") else campaign.source
            hint = (
                f"{hint} Without a network: run `higgsnb plan {name}` once where there is one (that keeps the indexes "
                "in HIGGSNB_CACHE), or set HIGGSNB_MIRROR to a folder that has them."
            )
        raise type(error)(f"{what}{error.message}", hint) from None


def _fetch(index: File) -> Path:
    return fetch(index.url, alternatives=index.alternatives, size=index.bytes, adler32=index.adler32)


@lru_cache(maxsize=256)
def _files(index: File, path: Path, _version: Version) -> tuple[File, ...]:
    """Return the files of an index; one that has changed is read again."""
    label = redact(index.url)
    text = read_text(path, label, "file index", CampaignError, largest=DOCUMENT_BYTES)
    try:
        entries = json.loads(text)
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        why = str(error) if isinstance(error, json.JSONDecodeError) else "brackets or digits without end"
        raise CampaignError(f"{label}: not JSON: {why}", f"Fetch it again. {FORM}") from None
    if not isinstance(entries, list) or not entries:
        raise CampaignError(f"{label}: expected a list of files, got {shown(entries, 40)}", FORM)
    if len(entries) > MOST_FILES:
        raise CampaignError(f"{label}: lists {len(entries):,} files, at most {MOST_FILES:,} are read", FORM)
    hosts = FileRequest.of(index.url, index.alternatives).hosts if Address.of(index.url).is_remote else None
    return tuple(_file(entry, f"{label}: file {number}", hosts) for number, entry in enumerate(entries, 1))


def _file(entry: Any, label: str, hosts: frozenset[str] | None) -> File:
    """Return a file from its entry in an index; `CampaignError` if that is wrong, or its server is not in ``hosts``."""

    def wrong(key: str, expected: str) -> CampaignError:
        return CampaignError(f"{label}: {key}: expected {expected}, got {shown(entry.get(key), 200)}", FORM)

    if not isinstance(entry, dict):
        raise CampaignError(f"{label}: expected an object, got {shown(entry, 40)}", FORM)
    uri, size, checksum = (entry.get(key) for key in ("uri", "size", "checksum"))
    address = Address.of(uri if isinstance(uri, str) and is_one_line(uri) else "")
    if address.scheme not in NETWORK or not address.valid or not address.mirror_path:
        raise wrong("uri", "an address with http:, https: or root:, and no '..' in its path")
    if type(size) is not int or not 0 < size < 2**63:
        raise wrong("size", "a number of bytes above 0")
    if not isinstance(checksum, str) or not re.fullmatch("adler32:[0-9a-fA-F]{1,8}", checksum):
        raise wrong("checksum", "'adler32:' and up to eight hexadecimal digits")
    if entry.get("filename", name := address.mirror_path.rsplit("/", 1)[-1]) != name:
        raise wrong("filename", f"the last part of its address, {shown(name)}")
    if hosts is not None and address.host not in hosts:
        hint = f"If its files are meant to be there, set HIGGSNB_ALLOW_HOSTS={address.host}."
        raise CampaignError(f"{label}: is on another server, {address.host}", hint)
    url, *others = _addresses(address)
    return File(url, tuple(others), bytes=size, adler32=checksum.partition(":")[2].lower().zfill(8))


def _addresses(address: Address) -> list[str]:
    """Return the addresses of a file: by https and then by xrootd if it is one of the portal's, else the one given."""
    for host, path in (("eospublic.cern.ch", "//eos/opendata/"), ("opendata.cern.ch", "/eos/opendata/")):
        if address.host == host and address.path.startswith(path):
            rest = address.path.removeprefix(path)
            return [f"{HTTPS}{rest}", f"{XROOTD}{rest}"]
    return [address.text]
