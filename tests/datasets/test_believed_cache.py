"""What others have put into the cache is neither believed nor followed: links, checksums, files, the toy, skims."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from http_server import Fault, FileServer
from planted import KINDS, is_untouched, plant

from higgsnb import datasets
from higgsnb.datasets.files import cache as files_cache
from higgsnb.datasets.files.cache import path_in_cache
from higgsnb.datasets.files.request import FileRequest, sha256_of
from higgsnb.datasets.toy import writer
from higgsnb.errors import ChecksumError

DATA = b"root" + bytes(range(256)) * 40
WRONG = b"root" + bytes(len(DATA) - 4)
ADLER32 = f"{zlib.adler32(DATA):08x}"
OTHER = 65534


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HIGGSNB_CACHE", str(folder))
    monkeypatch.setattr("higgsnb.datasets.files.retries.BACKOFF", 0.001)
    return folder


def by_everybody(path: Path) -> None:
    path.chmod(0o666 if path.is_file() else 0o777)


def by_the_group(path: Path) -> None:
    path.chmod(0o664 if path.is_file() else 0o775)


def by_somebody(path: Path) -> None:
    """Give it to somebody else; with no right to do so, open it to everybody."""
    os.chown(path, OTHER, OTHER) if os.geteuid() == 0 else by_everybody(path)


WRITABLE = [by_everybody, by_the_group, by_somebody]


def final_of(url: str) -> Path:
    path = path_in_cache(FileRequest.of(url))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("name", ["{}.part", "{}.part.json", "{}"])
@pytest.mark.parametrize("kind", KINDS)
def test_link_at_a_name_of_a_download_is_not_followed(
    name: str, kind: str, tmp_path: Path, http_server: FileServer
) -> None:
    url, victim = http_server.add("/a.root", DATA), tmp_path / "victim"
    path = final_of(url)
    planted = path.with_name(name.format(path.name))
    plant(kind, planted, victim)
    if name == "{}":
        by_somebody(planted) if kind == "hard" else planted.unlink()  # a link of this user may be on purpose
    # The first answer breaks off, so that the second one resumes and the name with .json is used.
    http_server.fail("/a.root", Fault(drop_after=1000))
    assert datasets.fetch(url).read_bytes() == DATA
    assert (path.is_symlink(), path.stat().st_nlink) == (False, 1)
    assert is_untouched(kind, victim)


@pytest.mark.parametrize("open_to", WRITABLE)
@pytest.mark.parametrize("what", ["file", "folder"])
def test_copy_that_others_could_have_written_is_fetched_again(
    what: str, open_to: Callable[[Path], None], http_server: FileServer
) -> None:
    url = http_server.add("/a.root", DATA)
    path = final_of(url)
    path.write_bytes(WRONG)
    open_to(path if what == "file" else path.parent)
    assert datasets.fetch(url).read_bytes() == DATA
    assert datasets.fetch(url).read_bytes() == DATA
    assert http_server.ranges_asked() == [None, "bytes=0-0"]


@pytest.mark.parametrize("open_to", WRITABLE)
@pytest.mark.parametrize("what", ["verified.sqlite", "."])
def test_checksums_that_others_could_have_written_are_computed_again(
    what: str, open_to: Callable[[Path], None], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.root"
    path.write_bytes(DATA)
    monkeypatch.setattr(files_cache, "SETTLED", 0.0)  # as if the file were older
    datasets.locate(str(path), adler32=ADLER32)
    with sqlite3.connect(cache / "verified.sqlite") as database:
        (table,) = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchone()
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        database.execute(f"UPDATE {table} SET {columns[-1]} = ?", ("00000bad",))  # noqa: S608 - names of its own
    database.close()
    assert datasets.checksum(path) == "00000bad"
    open_to(cache / what)
    assert datasets.checksum(path) == ADLER32
    path.write_bytes(WRONG)
    with pytest.raises(ChecksumError):
        datasets.locate(str(path), adler32=ADLER32)


@pytest.mark.parametrize("open_to", WRITABLE)
@pytest.mark.parametrize("what", ["manifest.json", "SMHiggsToZZTo4L.root", "."])
def test_toy_that_others_could_have_written_is_made_again(
    what: str, open_to: Callable[[Path], None], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(writer, "make", made.append)  # 100 MB, and two seconds
    folder = cache / "toy"
    folder.mkdir(parents=True)
    path = folder / "SMHiggsToZZTo4L.root"
    path.write_bytes(WRONG)
    entry = {"bytes": len(WRONG), "sha256": sha256_of(path)}
    parameters = writer._parameters(writer.DEFAULT_SEED, None)
    manifest = {"parameters": parameters, "files": {"SMHiggsToZZTo4L": entry}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert datasets.locate("toy:SMHiggsToZZTo4L.root").location == str(path)
    assert made == []
    open_to(folder / what)
    if what == ".":
        with pytest.raises(OSError, match="no such file"):  # as nothing is made here
            datasets.locate("toy:SMHiggsToZZTo4L.root")
        assert len(made) == 1
        assert made[0] != folder
    else:
        datasets.locate("toy:SMHiggsToZZTo4L.root")
        assert made == [folder]
