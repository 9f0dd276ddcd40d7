"""Text files as people save them: one place that turns their bytes into text, and the text into numbers or TOML.

UTF-8, UTF-16 and UTF-32 are read, with or without a byte order mark, with the line ends of any system, as they are or
compressed by gzip. A file that is not text is named as what it is, and none takes more memory than its kind may need.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import stat
import tomllib
import zlib
from pathlib import Path
from typing import Any

from higgsnb.errors import HiggsnbError, UnreadableError

__all__ = [
    "DOCUMENT_BYTES",
    "TABLE_BYTES",
    "is_one_line",
    "plain",
    "read_text",
    "read_toml",
    "shown",
    "to_float",
    "to_int",
]

TABLE_BYTES = 256 * 2**20
"""Largest table, unpacked; a brilcalc table of all data from 2015 to 2018 has 60 MB."""
DOCUMENT_BYTES = 16 * 2**20
"""Largest TOML or JSON, unpacked: it takes up to 40 times as much memory once it is parsed."""
DEEPEST_KEY = 64
"""Most dots in a TOML key: the time that `tomllib` takes grows with their square."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_GZIP = b"\x1f\x8b"
_FORMS = (
    (b"root\0", "a ROOT file", "Give the path of the text file."),
    (b"PK\3\4", "a ZIP archive or a workbook", "Unpack it; in a spreadsheet, save the table as CSV (UTF-8)."),
    (b"\xd0\xcf\x11\xe0", "a workbook", "Save the table as CSV (UTF-8)."),
    (b"PAR1", "a Parquet file", "Give the path of the text file."),
    (b"%PDF", "a PDF file", "Give the path of the text file."),
    (b"BZh", "compressed by bzip2", "Unpack it, or compress it by gzip."),
    (b"\xfd7zXZ", "compressed by xz", "Unpack it, or compress it by gzip."),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", "Unpack it, or compress it by gzip."),
    (_GZIP, "compressed twice", "Unpack it once."),
)


def read_text(
    path: Path,
    label: str,
    kind: str,
    error: type[HiggsnbError] = UnreadableError,
    *,
    largest: int = TABLE_BYTES,
    undecodable: str = "strict",
) -> str:
    r"""Return the text of a file, without byte order mark and with ``\n`` as the end of each line.

    Parameters
    ----------
    label
        What messages call the file.
    kind
        What it should be, for messages: "CSV file", "golden JSON", …
    error
        The class of the errors that are raised.
    largest
        Most bytes that it may have, unpacked if it is compressed.
    undecodable
        As ``errors`` of `bytes.decode`. "replace" suits tables, where the columns that are read are ASCII.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    HiggsnbError
        As ``error``: not a file, not readable, too large, not text, or not in an encoding that is read.
    """
    data = _content(path, label, error, largest)
    for head, what, hint in _FORMS:
        if data.startswith(head):
            raise error(f"{label}: is {what}, not a {kind}", hint)
    mark, encoding = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    if not mark and 0 in data[:2]:  # one of the first two characters' bytes is zero: ASCII in UTF-16
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        text = data[len(mark) :].decode(encoding, undecodable)
    except UnicodeDecodeError as found:
        line = data[: found.start].count(b"\n") + 1
        what = f"line {line} is not {encoding.upper()} text (byte {found.start}: 0x{data[found.start]:02x})"
        raise error(f"{label}: {what}", "Save the file as UTF-8: editors offer it under Save as.") from None
    if text.lstrip()[:1] == "<":
        hint = "The link gave an error page: open it in a browser."
        raise error(f"{label}: is an HTML or XML page, not a {kind}", hint)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error(f"{label}: is not a {kind}: line {line} has a zero byte", "Check the path, or fetch it again.")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _content(path: Path, label: str, error: type[HiggsnbError], largest: int) -> bytes:
    """Return the bytes of a file, unpacked."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # reading might never end
            what = "a folder" if stat.S_ISDIR(state.st_mode) else "not a regular file"
            raise error(f"{label}: is {what}", "Give the path of a file.")
        too_large = f"{label}: is larger than {largest // 2**20} MB, as no such file should be"
        hint = "Check the path, or split the file."
        if state.st_size > largest:
            raise error(too_large, hint)
        data = path.read_bytes()
        if data.startswith(_GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(largest + 1)
    except (FileNotFoundError, HiggsnbError):
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as found:
        raise error(f"{label}: cannot be unpacked (gzip: {found})", "Fetch the file again.") from None
    except OSError as found:
        raise error(
            f"{label}: cannot be read: {found.strerror or found}", "Check the permissions of the file."
        ) from None
    except ValueError:
        raise error(f"{shown(label)}: a path cannot have a zero byte", "Correct the path.") from None
    if len(data) > largest:
        raise error(too_large, hint)
    return data


def read_toml(path: Path, label: str, error: type[HiggsnbError]) -> dict[str, Any]:
    """Return the content of a TOML file; raises as `read_text` does, and ``error`` if it is not valid TOML."""
    text = read_text(path, label, "TOML file", error, largest=DOCUMENT_BYTES)
    for number, line in enumerate(text.split("\n"), 1):
        if line.partition("=")[0].count(".") > DEEPEST_KEY and not line.lstrip().startswith("#"):
            raise error(f"{label}: line {number}: a key with more than {DEEPEST_KEY} dots", "Correct this line.")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as found:
        why = " ".join(str(found).split())[:160]
        raise error(f"{label}: not valid TOML: {why}", "Correct this line.") from None
    except RecursionError:
        hint = "Campaigns and selections need three levels at most."
        raise error(f"{label}: not valid TOML: brackets are nested too deeply", hint) from None
    except ValueError:
        raise error(f"{label}: not valid TOML: a number has thousands of digits", "Correct this number.") from None


def shown(value: object, longest: int = 80) -> str:
    """Return the repr of a value in one line for a message, shortened if it is long; never raises."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; a number of more digits than Python writes
        text = f"<a very large {type(value).__name__}>"
    except Exception:  # noqa: BLE001 - of an object of the user's
        text = f"<a {type(value).__name__} that cannot be shown>"
    return text if len(text) <= longest else text[: longest - 3] + "..."


def plain(text: str) -> str:
    """Return a text in one line; control characters, as names in a file may contain them, become ``?``."""
    return "".join(one if one.isprintable() else " " if one.isspace() else "?" for one in text)


def is_one_line(text: str) -> bool:
    """Whether a text has neither line ends nor control characters, which a terminal may obey or a path cannot have.

    Nor has it half a character, which no file can have.
    """
    return re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", text) is None


def to_float(text: str) -> float:
    """Return a number in a cell; unlike `float`, raises ValueError for underscores and for digits other than 0 to 9."""
    if "_" in text or not text.isascii():
        raise ValueError(f"not a number: {shown(text)}")
    return float(text)


def to_int(text: str) -> int:
    """Return a whole number in a cell; raises ValueError as `to_float` does."""
    if "_" in text or not text.isascii():
        raise ValueError(f"not a whole number: {shown(text)}")
    return int(text)
