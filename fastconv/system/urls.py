"""Secrets of URLs: users, passwords and signatures are left out wherever a URL is stored, printed or logged."""

import hashlib
import re
from typing import Any
from urllib.parse import unquote_plus

from fastconv.system.errors import InputError

# Stands for what was left out.
HIDDEN = "***"
# Names of query parameters, and of environment variables, whose values are secrets, or change with every signature.
SECRET_NAME = re.compile(
    r"access|auth|cred|expires|jwt|key|pass|policy|pwd|sas|secret|session|sig|ticket|token"
    r"|^(code|pin|se|sp|sr|st|sv|spr|sip|skoid|sktid|skt|ske|sks|skv)$|^x-(amz|goog|oss|cos)-",
    re.IGNORECASE,
)
# A longer value may be a secret whatever its name. Its checksum is kept instead, so that two files stay different.
LONGEST_SHOWN = 12
_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*"
_URL = re.compile(rf"{_SCHEME}://(?:(?!,{_SCHEME}://)[^\s'\"<>])+")
_USER = re.compile(rf"({_SCHEME})://([^\s/?#]*)@")
# A password with a slash, a question mark or a number sign in it, which no program reads as it was meant. Two colons
# may be before the next address of a chain, as in zip://a::s3://bucket/b.
_ODD_USER = re.compile(
    rf"({_SCHEME})://(?!\[)([^\s/?#@:]*:(?!:(?:{_SCHEME}::)*{_SCHEME}://|[0-9]*(?:[/?#,\s'\"\]]|$))\S*)@"
)
_PARAMETER = re.compile(r"([?&;#])(?:([^=&;#?]+)=)?([^&;#]*?)(?=[\])}.,:!]*$|[&;#])")
_remembered: set[str] = set()


def redacted(text: str) -> str:
    """A text in which no URL has a user, a password or a signature, and no remembered secret is left.

    What is left out becomes `***`. Long values of other query parameters become `***` and eight hex digits of their
    sha256, so that two files of one server stay different. Texts without a URL stay as they are.
    """
    for secret in _remembered:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if "://" not in text:
        return text
    text = _USER.sub(_without_user, text)
    text = _ODD_USER.sub(_without_user, text)
    return _URL.sub(lambda found: _PARAMETER.sub(_without_value, found[0]), text)


def redact(value: Any) -> Any:
    """Nested dicts, lists and tuples of plain values, with every text in them `redacted`."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redact(key): redact(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact(each) for each in value)
    return value


def remember(name: str, value: str) -> None:
    """Leave the value of an environment variable out of all texts from now on, if its name is that of a secret."""
    if SECRET_NAME.search(name) and len(value) >= 4:
        _remembered.add(value)


def is_redacted(value: object) -> bool:
    """Whether a setting, or one inside it, was stored without its secret."""
    if isinstance(value, dict):
        return any(map(is_redacted, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_redacted, value))
    return isinstance(value, str) and HIDDEN in value


def require_whole(url: str, key: str) -> None:
    """Raise InputError for a URL that a run stored without its secret.

    Args:
        key: the setting to give again.
    """
    if is_redacted(url):
        raise InputError(
            f"{url} was stored without its password or signature, so it cannot be opened: give it again, {key}=URL"
        )


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found.groups()
    # In abfs://container@account and ssh://user@host it is part of the address; in https://TOKEN@host it is a secret,
    # and s3://KEY@bucket is no address.
    if ":" not in user and not scheme.lower().startswith(("http", "ftp", "s3", "gs", "gcs")):
        return found[0]
    return f"{scheme}://{HIDDEN}@"


def _without_value(found: re.Match[str]) -> str:
    before, name, value = found.groups()
    if not value or (name is None and before in "#;"):
        return found[0]
    start = before if name is None else f"{before}{name}="
    if name is not None and SECRET_NAME.search(unquote_plus(name)):
        return start + HIDDEN
    if len(value) > LONGEST_SHOWN:
        return start + HIDDEN + hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:8]
    return found[0]
