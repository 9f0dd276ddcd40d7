"""`Address`: what a path or URL is, parsed once, and what may be shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.request import FileRequest
from higgsnb.errors import TransferError

SIGNED = "https://me:pw@Host.example:8443/eos/a%20b.ROOT?authz=abc&n=1"


@pytest.mark.parametrize(
    ("text", "scheme", "host", "name", "suffix", "public_name"),
    [
        ("/folder/a%20b.root", "", "", "a%20b.root", ".root", "a%20b.root"),
        ("~/a.root", "", "", "a.root", ".root", "a.root"),
        (r"C:\folder\a.root", "", "", r"C:\folder\a.root", ".root", "a.root"),
        ("file:///folder/a%20b.root", "file", "", "a b.root", ".root", "a%20b.root"),
        ("toy:ZZTo4mu.root", "toy", "", "ZZTo4mu.root", ".root", "toy:ZZTo4mu.root"),
        ("root://Host//eos/a.root", "root", "host", "a.root", ".root", "root://host//eos/a.root"),
        (SIGNED, "https", "host.example", "a b.ROOT", ".root", "https://host.example/eos/a%20b.ROOT"),
        ("https://host/a.so=me-thing", "https", "host", "a.so=me-thing", "", "https://host/a.so=me-thing"),
    ],
)
def test_address_is_parsed(text: str, scheme: str, host: str, name: str, suffix: str, public_name: str) -> None:
    address = Address.of(text)
    assert (address.text, address.scheme, address.host) == (text, scheme, host)
    assert (address.name, address.suffix, address.public_name) == (name, suffix, public_name)
    assert address.valid
    assert address.is_local == (scheme in ("", "file"))
    assert address.is_remote == (scheme in ("root", "https"))


def test_address_is_shown_without_its_secrets() -> None:
    address = Address.of(SIGNED)
    assert str(address) == "https://***@Host.example:8443/eos/a%20b.ROOT?authz=***&n=1"
    assert repr(address) == f"Address('{address}')"
    assert str(Address.of("http://me:p w@a..b/x")) == "http://***@a..b/x"
    assert address.without_secrets == "https://host.example:8443/eos/a%20b.ROOT?n=1"


@pytest.mark.parametrize(
    "text",
    [
        "https:///a.root",
        "http://[::1/a.root",
        "http://host:x/a",
        "http://host:0/a",
        "root:a",
        "http://a..b/a.root",
        "http://host../a.root",
        "root://.a//a.root",
        f"http://{'h' * 64}.invalid/a.root",
        f"http://h\u00f6{'h' * 62}.invalid/a.root",
        "http://ho st/a.root",
        "http://host\u200a/a.root",
        "file:///tmp/a%00b.root",
        "https://host/a%00b.root",
        "folder/a\0b.root",
    ],
)
def test_address_that_leads_nowhere_is_invalid(text: str) -> None:
    assert not Address.of(text).valid
    with pytest.raises(TransferError, match="not a valid address"):
        FileRequest.of(text)


@pytest.mark.parametrize(
    "text", [f"http://{'h' * 63}.invalid./a", "http://b\u00fccher.invalid/a", "https://[::1]:80/a", "http://a_b/a%2000"]
)
def test_unusual_host_is_valid(text: str) -> None:
    assert Address.of(text).valid


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://eospublic.cern.ch/eos/a.root", "root://eospublic.cern.ch//eos/a.root"),
        ("https://me:pw@HOST/a.root", "https://host/a.root"),
        ("/eos/../eos/a.root", "file:///eos/a.root"),
    ],
)
def test_addresses_of_one_file_have_one_canonical_form(one: str, other: str) -> None:
    assert Address.of(one).canonical == Address.of(other).canonical


def test_local_path_of_a_file_address(tmp_path: Path) -> None:
    path = tmp_path / "a b.root"
    assert Address.of(path.as_uri()).local_path == path
    with pytest.raises(TransferError, match=r"cannot name a host \('server'\)\nUse file:///folder/name"):
        _ = Address.of("file://server/a.root").local_path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("https://host/eos/a%20b.root", "eos/a b.root"),
        ("root://host//eos/a.root", "eos/a.root"),
        ("https://host/x/..%2fa.root", ""),
        ("https://host", ""),
        ("/eos/a.root", ""),
    ],
)
def test_place_in_a_mirror_is_below_its_root(text: str, path: str) -> None:
    assert Address.of(text).mirror_path == path
