"""Text files as people save them: the same numbers however they are saved, and a name for what is no text."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from texts import KINDS, SAVED, broken

from higgsnb import selection, text
from higgsnb.errors import CampaignError, HiggsnbError, SelectionError, UnreadableError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", SAVED)
def test_text_says_the_same_however_it_is_saved(tmp_path: Path, kind: str, way: str) -> None:
    good, read, name = KINDS[kind]
    (tmp_path / f"0{name}").write_bytes(good.encode())
    (tmp_path / name).write_bytes(SAVED[way](good))
    expected = read(tmp_path / f"0{name}")
    assert expected
    assert read(tmp_path / name) == expected


def zipped(data: bytes) -> bytes:
    """A ZIP archive of one file."""
    with zipfile.ZipFile(archive := BytesIO(), "w") as opened:
        opened.writestr("table.csv", data)
    return archive.getvalue()


NO_TEXT = {
    "ROOT": (b"root\0\0\xf6", "is a ROOT file, not a "),
    "workbook": (zipped(b"x"), "is a ZIP archive or a workbook, not a .*\n.*save the table as CSV"),
    "old workbook": (b"\xd0\xcf\x11\xe0\xa1", "is a workbook, not a .*\nSave the table as CSV"),
    "bzip2": (bz2.compress(b"x"), "is compressed by bzip2.*\nUnpack it"),
    "xz": (lzma.compress(b"x"), "is compressed by xz.*\nUnpack it"),
    "gzip of gzip": (gzip.compress(gzip.compress(b"x")), "is compressed twice"),
    "gzip cut short": (gzip.compress(os.urandom(99))[:60], "cannot be unpacked .*\nFetch the file again"),
    "gzip with a flipped bit": (gzip.compress(b"abc")[:-5] + b"\0" * 5, "cannot be unpacked"),
    "page": (b"\xef\xbb\xbf\n <!DOCTYPE html>", "is an HTML or XML page, not a .*\nThe link gave an error page"),
    "page in UTF-16": ("<html>".encode("utf-16"), "is an HTML or XML page, not a "),
    "zero bytes": (b"abc\nde\0f", "line 2 has a zero byte"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("data", "words"), NO_TEXT.values(), ids=NO_TEXT)
def test_what_is_no_text_is_named(tmp_path: Path, kind: str, data: bytes, words: str) -> None:
    _, read, name = KINDS[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(HiggsnbError, match=words) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("kind", ["campaign", "selection", "golden_json"])
def test_text_of_another_encoding_is_named_with_its_line(tmp_path: Path, kind: str) -> None:
    good, read, name = KINDS[kind]
    (tmp_path / name).write_bytes(b"\n\n# \xb5m\n" + good.encode("cp1252", "replace"))
    with pytest.raises(HiggsnbError, match=r"line 3 is not UTF-8 text \(byte 4: 0xb5\)\nSave the file as UTF-8"):
        read(tmp_path / name)


@pytest.mark.parametrize(("kind", "column"), [("table", "source"), ("events", "M")])
def test_letters_beside_the_columns_that_are_read_do_not_matter(tmp_path: Path, kind: str, column: str) -> None:
    good, read, name = KINDS[kind]
    (tmp_path / f"0{name}").write_text(good)
    assert f",{column}\n" in good
    (tmp_path / name).write_bytes(good.replace(f",{column}\n", ",µ\n").encode("cp1252"))
    assert read(tmp_path / name) == read(tmp_path / f"0{name}")


def test_file_above_the_cap_is_named_before_it_is_read(tmp_path: Path) -> None:
    large = tmp_path / "large.toml"
    with large.open("wb") as file:
        file.truncate(2**40)  # takes no space; 1 TB could not be read
    with pytest.raises(CampaignError, match=r"large\.toml: is larger than 16 MB, as no such file should be\nCheck"):
        KINDS["campaign"][1](large)
    with pytest.raises(UnreadableError, match="is larger than 256 MB"):
        KINDS["events"][1](large)


def test_file_that_unpacks_to_more_than_the_cap_is_named(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=31)
    block = b"#" * 2**20
    (tmp_path / "s.toml").write_bytes(b"".join(packer.compress(block) for _ in range(64)) + packer.flush())
    assert (tmp_path / "s.toml").stat().st_size < 2**17
    with pytest.raises(SelectionError, match="is larger than 16 MB"):
        selection.load(tmp_path / "s.toml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.toml")
    with pytest.raises(SelectionError, match=r"s\.toml: is not a regular file\n"):
        selection.load(tmp_path / "s.toml")


BAD_TOML = {
    "brackets": ("a = " + "[" * 5000, "brackets are nested too deeply"),
    "tables": ("a = " + "{b=" * 5000, "brackets are nested too deeply"),
    "digits": ("a = " + "9" * 5000, "a number has thousands of digits"),
    "dots": ("\n" + ".".join("a" * 100_000) + " = 1", "line 2: a key with more than 64 dots"),
}


@pytest.mark.parametrize(("content", "words"), BAD_TOML.values(), ids=BAD_TOML)
@pytest.mark.parametrize("kind", ["campaign", "selection"])
def test_toml_that_python_cannot_take_is_named(tmp_path: Path, kind: str, content: str, words: str) -> None:
    _, read, name = KINDS[kind]
    (tmp_path / name).write_text(content)
    with pytest.raises((CampaignError, SelectionError), match=words) as caught:
        read(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 2


def test_value_is_shown_in_one_short_line_whatever_it_is() -> None:
    nested: list[object] = []
    for _ in range(10**5):
        nested = [nested]
    values = (16**5000, nested, "a\nb", "x" * 1000, float("inf"))
    lines = [text.shown(value) for value in values]
    assert lines[:3] == ["<a very large int>", "<a very large list>", "'a\\nb'"]
    assert all("\n" not in line and len(line) <= 80 for line in lines)
    while nested:
        nested = nested.pop()  # type: ignore[assignment]


@pytest.mark.parametrize("cell", ["1_0", "\u0661", "\uff11"])
def test_numbers_are_written_in_ascii_digits(cell: str) -> None:
    assert (float(cell), int(cell)) in ((10, 10), (1, 1))  # Python takes them
    for read in (text.to_float, text.to_int):
        with pytest.raises(ValueError, match="number"):
            read(cell)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_text_is_an_error_of_the_tree_in_one_line(tmp_path: Path, kind: str) -> None:
    good, read, name = KINDS[kind]
    draw, errors = random.Random(13), []
    for _ in range(150):
        (tmp_path / name).write_bytes(broken(good.encode(), draw))
        try:
            read(tmp_path / name)
        except HiggsnbError as error:
            errors.append(error)
    assert 20 < len(errors) < 150
    assert [error.message for error in errors if not text.is_one_line(error.message) or not error.hint] == []
