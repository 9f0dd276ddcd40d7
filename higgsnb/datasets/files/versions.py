"""Which content a file has: what a server says of it, or the state and digest of a file on this machine."""

from __future__ import annotations

import os
from email.message import Message
from pathlib import Path
from typing import NamedTuple

from higgsnb.text import plain


class Version(NamedTuple):
    """What tells the content of a file from an earlier or later one under the same address.

    Of a remote file these are the validators of the server (RFC 9110, section 8.8): ``tag`` its ETag and ``modified``
    its Last-Modified, empty if it gives none. Of a file on this machine ``tag`` is the inode, and ``modified`` the
    times, in ns, at which its content and its inode were last changed: a program can set back the first, not the
    second. ``size`` is in bytes, None if not known. ``digest`` is `content_digest`, empty if it was not computed.
    ``source`` is the address at which a remote file was looked for, empty for an answer to a later request.
    """

    size: int | None = None
    modified: str = ""
    tag: str = ""
    digest: str = ""
    source: str = ""

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> Version:
        """Look at a file on this machine, without opening it."""
        return cls.of_state(Path(path).stat())

    @classmethod
    def of_state(cls, state: os.stat_result) -> Version:
        """Return the version that goes with the state of a file on this machine."""
        return cls(state.st_size, f"{state.st_mtime_ns} {state.st_ctime_ns}", str(state.st_ino))

    @classmethod
    def of_answer(cls, headers: Message, size: int | None) -> Version:
        """Return the version that the headers of an answer name; ``size`` is that of the whole file."""
        return cls(size, headers.get("Last-Modified", "").strip(), headers.get("ETag", "").strip())

    @property
    def has_validators(self) -> bool:
        """Whether it tells a content from another one of the same size."""
        return bool(self.tag or self.modified or self.digest)

    def difference(self, found: Version) -> str:
        """Return in which way a later answer of a server is about another content; empty if it is about the same.

        What only one of the two says is passed over, unless nothing else is left to compare. Two sources of a file may
        have validators of their own: then only the sizes are compared.
        """
        if self.source and found.source and self.source != found.source:
            return Version(self.size).difference(Version(found.size))
        # Some servers mark the tag of a file that was written a moment ago as weak, and later no more.
        tags = self.tag.removeprefix("W/"), found.tag.removeprefix("W/")
        pairs = {
            "ETag": tags,
            "Last-Modified": (self.modified, found.modified),
            "size": (self.size, found.size),
        }
        for name, (before, now) in pairs.items():
            if before not in ("", None) and now not in ("", None) and before != now:
                return "{} {} instead of {}".format(name, *(plain(str(text)[:60]) for text in (now, before)))
        if (self.tag or self.modified) and not (self.tag and found.tag) and not (self.modified and found.modified):
            return "an answer without the ETag or Last-Modified of the earlier ones"
        return ""

    def hint(self, found: Version) -> str:
        """Return what to do about a `difference`."""
        if found.tag and self.modified == found.modified and self.size in (None, found.size):
            return (
                "Run the same command again. If that does not help, several servers share this name, each with ETags "
                "of its own: state bytes and adler32 of the file in the campaign, and set HIGGSNB_STREAM_ABOVE to more "
                "bytes, to have it downloaded and verified."
            )
        return "The file was replaced on the server: run the same command again."


UNKNOWN = Version()
