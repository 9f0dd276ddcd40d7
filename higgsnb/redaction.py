"""Text without its secrets: passwords, tokens and signatures in addresses, headers, variables and reprs.

Every text that leaves the package goes through `redact` where it is made: errors when they are raised, log records in
the `logger` of each module, reprs through `redacted_repr`. What is hidden is recognised by its name (``token=``,
``'password':``, ``Authorization:``), by its place (``user:password@host``) or by its form (``ghp_…``, ``eyJ….….…``).
"""

from __future__ import annotations

import logging
import re
from dataclasses import fields
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
LONG_VALUE = 24
"""A parameter of an address with as many characters is hidden whatever its name."""

_IN_ADDRESS = re.compile(
    "auth|token|sig|secret|pass|pwd|cred|key|jwt|session|x-amz|x-goog|code|access|policy|cookie|ticket|assertion|"
    "bearer|macaroon|hmac|otp|nonce|cap[.](?:sym|msg)",
    re.IGNORECASE,
)
"""Names of parameters; in an address, where nobody needs the value, rather too many."""
_WORD = re.compile("[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_SECRET_WORD = re.compile(
    ".*(?:token|secret|password|passwd|passphrase|signature|credentials?|apikey|accesskey|secretkey|sessionid|sessid)"
    "|auth|authz|authorization|sig|pass|pwd|key|jwt|session|sid|code|access|policy|cookie|ticket|assertion|bearer"
    "|macaroon|hmac|otp|pin|sas"
)
_NAME = re.compile(r"([?&#;](?:amp;)?)([^=&#;?\s'\"<>]{1,200})=|(?<![\w?&#;%./-])(-{0,2}[A-Za-z_][\w.-]{0,80})=")
_VALUE = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|(?:(?:Bearer|Basic|Token)(?:\s+|%20|\+))?[^&#\s\"<>]+", re.IGNORECASE)
_LONG = re.compile(rf"[^&#;\s'\"<>)]{{{LONG_VALUE}}}")
_HARMLESS = re.compile(r"['\"]?(?:-?\d{1,5}|None|True|False|true|false|null)?['\"]?")
_TAIL = "'),;:]}"

_RULES: tuple[tuple[str, str, str], ...] = (
    # user:password@; a password may have / ? # in it, but digits after the colon are a port
    ("@", r"(?<=://)(?:[^/?#\s]*@|(?!\[)[^\s/?#@:]{1,200}:(?!\d+(?:[/?#]|$))[^\s@'\"<>]{0,1000}@)", rf"{HIDDEN}@"),
    ("@", r"(?<![\w./@%+-])[\w.+%-]{1,100}:[^\s@/'\":]{1,1000}@(?!sha\d+:)(?=[\w\[])", rf"{HIDDEN}@"),
    # the same, and parameters, of an address inside another one
    ("%40", r"(?<=%3A%2F%2F)[^\s&/?#]{0,1000}?%40", rf"{HIDDEN}%40"),
    (
        "%3d",
        rf"((?:%3F|%26|%23)[\w.-]{{0,80}}(?:{_IN_ADDRESS.pattern})[\w.-]{{0,80}}%3D)(?:(?!%26|%23)[^\s&#'\"<>])+",
        rf"\1{HIDDEN}",
    ),
    # headers, to the end of the line or text
    ("authorization", r"\b(authorization['\"]?\s*[:,]\s*(?:b?['\"])?)(?!\*)[^\s'\"][^\r\n'\"]*", rf"\1{HIDDEN}"),
    ("cookie", r"\b(cookie['\"]?\s*[:,]\s*(?:b?['\"])?)(?!\*)[^\s'\"][^\r\n'\"]*", rf"\1{HIDDEN}"),
    (
        "x-",
        r"\b(x-[\w-]{0,40}(?:token|key|auth|secret)[\w-]{0,40}['\"]?\s*[:,]\s*(?:b?['\"])?)(?!\*)[^\s'\"][^\r\n'\"]*",
        rf"\1{HIDDEN}",
    ),
    ("bearer", r"\b(bearer(?:\s+|%20))[\w.~+/=%-]+", rf"\1{HIDDEN}"),
    ("basic ", r"\b(basic )(?=[a-z+/]*(?-i:[A-Z0-9=]))(?=\w*\d|\w{16})[\w+/]{8,}=*", rf"\1{HIDDEN}"),
    *(
        (name, rf"\b({name}:\s+)[^\s'\",]+", rf"\1{HIDDEN}")
        for name in ("password", "passwd", "passphrase", "token", "api_key", "apikey")
    ),
    # tokens that are known by their form: JSON Web Tokens, those of GitHub, GitLab and AWS, private keys
    ("eyj", r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?", HIDDEN),
    ("gh", r"\bgh[pousr]_\w{16,}", HIDDEN),
    ("github_pat_", r"\bgithub_pat_\w{16,}", HIDDEN),
    ("glpat-", r"\bglpat-[\w-]{16,}", HIDDEN),
    ("akia", r"\bAKIA[0-9A-Z]{16}", HIDDEN),
    ("asia", r"\bASIA[0-9A-Z]{16}", HIDDEN),
    ("private key-", r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?", HIDDEN),
)
"""A text in lower case without which the rule need not be tried, what to look for, and what comes in its place."""
_COMPILED = tuple((needle, re.compile(rule, re.IGNORECASE), put) for needle, rule, put in _RULES)
_QUOTED = re.compile(r"(['\"])([A-Za-z_][\w.-]{0,80})(\1\s*:\s*b?)('[^'\n]*'|\"[^\"\n]*\")")


def redact(text: str) -> str:
    """Return a text without the secrets in it; what is hidden becomes ``***``.

    >>> redact("https://me:pw@host/f.root?authz=abc&download=1")
    'https://***@host/f.root?authz=***&download=1'
    >>> redact("refused (token=abc), sent 'Authorization': 'Bearer abc'")
    "refused (token=***), sent 'Authorization': '***'"
    """
    if "=" in text:
        text = _hide_parameters(text)
    if "':" in text or '":' in text:
        text = _QUOTED.sub(
            lambda pair: f"{pair[1]}{pair[2]}{pair[3]}'{HIDDEN}'" if is_secret(pair[2]) else pair[0], text
        )
    lower = text.lower()
    for needle, pattern, put in _COMPILED:
        if needle in lower:
            text = pattern.sub(put, text)
    return text


def _hide_parameters(text: str) -> str:
    """Hide the values of ``name=value``: in an address by a broad choice of names, elsewhere by a narrow one."""
    parts, end = [], 0
    for name in _NAME.finditer(text):
        if name.start() < end:
            continue
        if name[1] is None:
            hidden = is_secret(name[3])
        else:
            hidden = bool(_IN_ADDRESS.search(unquote(name[2]))) or _LONG.match(text, name.end()) is not None
        value = _VALUE.match(text, name.end()) if hidden else None
        if value is None:
            continue
        bare = value[0] if value[0][0] in "'\"" else value[0].rstrip(_TAIL)
        if bare and (name[1] is not None or not _HARMLESS.fullmatch(bare)):
            parts += [text[end : name.end()], HIDDEN]
            end = name.end() + len(bare)
    return "".join((*parts, text[end:]))


def is_secret(name: str) -> bool:
    """Whether a variable, parameter or option of this name holds a secret: ``AWSAccessKeyId``, not ``signal``."""
    return any(_SECRET_WORD.fullmatch(word.lower()) for word in _WORD.findall(unquote(name)))


def redacted_repr(item: Any) -> str:
    """Return the usual repr of a dataclass without secrets; to be used as its ``__repr__``."""
    values = ", ".join(f"{field.name}={getattr(item, field.name)!r}" for field in fields(item) if field.repr)
    return redact(f"{type(item).__qualname__}({values})")


def logger(name: str) -> logging.Logger:
    """Return the logger of a module, which lets no secret into its records.

    A filter of the package's logger would not see them: it is not asked for the records of the loggers below it.
    """
    log = logging.getLogger(name)
    log.addFilter(_redact_record)
    return log


def _redact_record(record: logging.LogRecord) -> bool:
    """Put the final text into a record, that of its exception, too."""
    record.msg, record.args = redact(record.getMessage()), None
    if record.exc_info:
        record.exc_text, record.exc_info = redact(logging.Formatter().formatException(record.exc_info)), None
    return True
