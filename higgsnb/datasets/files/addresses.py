"""Addresses of files: a path or a URL (http, https, root, file, toy), parsed once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from higgsnb.errors import TransferError
from higgsnb.redaction import HIDDEN, redact
from higgsnb.storage import expanded

NETWORK = frozenset({"http", "https", "root"})
CREDENTIAL = re.compile(
    r"authz?|authorization|(?:[\w-]+[_-])?token|sig(?:nature)?|jwt|bearer|password|secret|AWSAccessKeyId|GoogleAccessId"
    r"|Key-Pair-Id|X-(?:Amz|Goog)-[\w-]+",
    re.IGNORECASE,
)
"""Parameters that say who asks, not for what. Few: what ``key=`` or ``code=`` names may as well be the file."""


def _is_host(name: str) -> bool:
    """Whether a system can look up a name, in ASCII or as IDNA: it has 1 to 63 characters between its dots."""
    try:
        name.encode("idna").decode("ascii").encode("idna")  # dots in disguise come out at the first
    except UnicodeError:
        return False
    return name.strip(".") != "" and not re.search(r"[\s\0-\x20\x7f]", name)


@dataclass(frozen=True, repr=False)
class Address:
    """Where a file is: a path or a URL. `str` and `repr` show it without its secrets.

    ``text`` is as given, secrets included. ``scheme`` is in lower case, empty for a path; a single letter is a drive of
    Windows, not a scheme. ``authority`` has user, password, host and port as given; ``host`` is in lower case, empty
    unless the scheme is http, https or root. ``path`` is percent-encoded as given, of a path all of it; ``query`` is
    what follows the question mark. ``valid`` is False if the text cannot be parsed, if the path has a null byte, or if
    it is the URL of a remote file whose host is missing or cannot be one.
    """

    text: str
    scheme: str = ""
    authority: str = ""
    host: str = ""
    path: str = ""
    query: str = ""
    valid: bool = True

    @classmethod
    def of(cls, location: str | os.PathLike[str]) -> Address:
        """Parse a path or URL; never raises, see ``valid``."""
        text = os.fspath(location)
        match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)
        if match is None:
            return cls(text, path=text, valid="\0" not in text)
        scheme = match[1].lower()
        try:
            parts = urlsplit(text)
            name, valid = parts.hostname or "", parts.port != 0
        except ValueError:
            return cls(text, scheme, valid=False)
        host = name.rstrip(".").lower() if scheme in NETWORK else ""
        valid = (scheme not in NETWORK or (valid and _is_host(name))) and "\0" not in unquote(parts.path)
        return cls(text, scheme, parts.netloc, host, parts.path, parts.query, valid)

    def __str__(self) -> str:
        text, (user, _, server) = self.text, self.authority.rpartition("@")
        if user:  # which may have blanks or quotes in it, as may a parameter
            text = text.replace(f"{user}@{server}", f"{HIDDEN}@{server}", 1)
        for parameter in self.query.split("&"):
            if redact(f"?{parameter}") != f"?{parameter}":
                text = text.replace(parameter, f"{parameter.partition('=')[0]}={HIDDEN}")
        return redact(text)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    @property
    def is_local(self) -> bool:
        """Whether it is a path or a ``file:`` URL."""
        return self.scheme in ("", "file")

    @property
    def is_remote(self) -> bool:
        """Whether it is an ``http:``, ``https:`` or ``root:`` URL."""
        return self.scheme in NETWORK

    @property
    def name(self) -> str:
        """The last part of the path, for messages."""
        return redact(unquote(self.path) if self.scheme else self.path).rstrip("/").rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """Extension in lower case with its dot; empty if it is long or has unusual characters."""
        suffix = Path(self.name).suffix.lower()
        return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""

    @property
    def public_name(self) -> str:
        """The address without credentials, port and query; of a local file only its name."""
        if self.is_local:
            return redact(PurePosixPath(self.text.replace("\\", "/")).name)
        return self.text if self.scheme == "toy" else redact(f"{self.scheme}://{self.host}{self.path}")

    @property
    def server(self) -> str:
        """Host and port in lower case, without user and password."""
        return self.authority.rsplit("@", 1)[-1].lower()

    @property
    def without_secrets(self) -> str:
        """The URL without user and `CREDENTIAL` parameters: the same text for the same file, whoever asks for it."""
        parameters = [p for p in self.query.split("&") if not CREDENTIAL.fullmatch(unquote(p.partition("=")[0]))]
        return urlunsplit((self.scheme, self.server, self.path, "&".join(parameters), ""))

    @property
    def canonical(self) -> str:
        """A text that two addresses of the same file share: the resolved path, or the URL without its user."""
        if self.scheme == "toy":
            return self.text
        if self.is_local:
            return os.path.realpath(unquote(self.path) if self.scheme else self.path)
        path = re.sub(r"/+", "/", unquote(self.path))
        # CERN's storage serves one tree, /eos/…, from several hosts and protocols.
        return path if path.startswith("/eos/") else f"{self.server}{path}?{self.query}"

    @property
    def local_path(self) -> Path:
        """The path of a local file, with ``~`` replaced; `TransferError` if a ``file:`` URL names a host."""
        if not self.scheme:
            return expanded(self.path)
        if self.authority not in ("", "localhost"):
            raise TransferError(
                f"{self}: a file: address cannot name a host ('{self.authority}')", "Use file:///folder/name."
            )
        from urllib.request import url2pathname

        return Path(url2pathname(self.path))

    @property
    def mirror_path(self) -> str:
        """Where a mirror has the file, below its root; empty if it has no path, or one that leaves the root."""
        path = unquote(self.path).lstrip("/") if self.host else ""
        return "" if ".." in re.split(r"[/\\]", path) else path
