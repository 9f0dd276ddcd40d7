"""What a user's function is: a digest of everything in it that can change a result, and the function as bytes."""

from higgsnb.selection.identity.files import load_from_file
from higgsnb.selection.identity.identify import Identity, captured_digest, check_unchanged, identify
from higgsnb.selection.identity.transport import pack, unpack, unpack_once
from higgsnb.selection.identity.walk import Line

__all__ = [
    "Line",
    "Identity",
    "identify",
    "captured_digest",
    "check_unchanged",
    "pack",
    "unpack",
    "unpack_once",
    "load_from_file",
]
