"""Secrets of URLs, in any text and any nested setting."""

import pytest

from fastconv.system import urls
from fastconv.system.errors import InputError
from fastconv.system.urls import is_redacted, redact, redacted, remember, require_whole

LINES = [
    ("http://ann:pa55@host/x", "http://***@host/x"),
    ("http://ann:p@55@host/x and more", "http://***@host/x and more"),
    ("https://ghp_token@host/a.tar", "https://***@host/a.tar"),
    ("HTTP://ANN:PA55@HOST/x?SIG=1", "HTTP://***@HOST/x?SIG=***"),
    ("http://ann:pa/55@host/x", "http://***@host/x"),
    ("http://ann:p#a?55@host/x", "http://***@host/x"),
    ("s3://AKIA:secret@bucket/key", "s3://***@bucket/key"),
    ("s3://AKIA@bucket/key", "s3://***@bucket/key"),
    ("zip://a.zip::s3://AKIA:secret@bucket/key", "zip://a.zip::s3://***@bucket/key"),
    ("zip://a.zip::simplecache::s3://AKIA:se/cret@bucket/key", "zip://a.zip::simplecache::s3://***@bucket/key"),
    ("zip://*.png::tar://b.tar::https://ann:pa55@host/x", "zip://*.png::tar://b.tar::https://***@host/x"),
    ("sftp://ann::pa/55@host/x", "sftp://***@host/x"),
    ("simplecache::https://ann:pa55@host/x", "simplecache::https://***@host/x"),
    ("mysql+pyodbc://ann:pa55@host/db", "mysql+pyodbc://***@host/db"),
    ("https://h/x?X-Amz-Signature=ab%2F&X-Amz-Date=2026&v=1", "https://h/x?X-Amz-Signature=***&X-Amz-Date=***&v=1"),
    ("https://h/x?AWSAccessKeyId=A&Expires=1&Signature=b=", "https://h/x?AWSAccessKeyId=***&Expires=***&Signature=***"),
    ("https://h/x?sv=2024&se=2026&sp=r&sig=ab", "https://h/x?sv=***&se=***&sp=***&sig=***"),
    ("https://h/x#access_token=ab", "https://h/x#access_token=***"),
    ("[http://a/b?sig=1,http://c/d?token=2]", "[http://a/b?sig=***,http://c/d?token=***]"),
    ("['http://a/b?sig=1', 'http://c/d?token=2']", "['http://a/b?sig=***', 'http://c/d?token=***']"),
    ("cannot read http://h/x?sig=ab: 500, url='http://h/x?sig=ab'",
     "cannot read http://h/x?sig=***: 500, url='http://h/x?sig=***'"),
    ("https://h/{000..010}.tar?token=ab", "https://h/{000..010}.tar?token=***"),
]  # fmt: skip
# Nothing here is secret.
PLAIN = [
    "http://host:8080/@team/x",
    "http://[::1]:80/x@y",
    "abfs://container@account.dfs.core.windows.net/x",
    "https://h/x?download=1&version=3",
    "https://h/x.html#a-very-long-name-of-a-section",
    "zip://a@b.zip::s3://bucket/key@1",
    "a/b?sig=1 ann:pa55@host",
    "optimizer.max_lr=0.1",
]


@pytest.mark.parametrize(("text", "safe"), LINES)
def test_a_secret_is_left_out(text, safe):
    assert redacted(text) == safe
    assert redacted(safe) == safe


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


def test_long_values_of_other_names_stay_different():
    one, other = (redacted(f"https://h/x?file={letter * 30}") for letter in "ab")
    assert one != other
    assert "aaa" not in one
    assert is_redacted(one)
    assert redacted(one) == one


def test_nested_settings_are_redacted_in_place_of_their_texts():
    secret = "http://ann:pa55@host"
    nested = {"a": [secret, 1, None, True], secret: {"b": (secret, 0.5)}}
    safe = "http://***@host"
    assert redact(nested) == {"a": [safe, 1, None, True], safe: {"b": (safe, 0.5)}}
    assert is_redacted(redact(nested))
    assert not is_redacted(nested)


def test_environment_variables_that_are_secrets_are_remembered(monkeypatch):
    monkeypatch.setattr(urls, "_remembered", set())
    remember("HF_TOKEN", "hf_abcdef")
    remember("HOME", "/home/ann")
    remember("PIN", "1")
    assert redacted("x=hf_abcdef /home/ann 1") == "x=*** /home/ann 1"


def test_a_redacted_url_is_not_opened():
    with pytest.raises(InputError, match=r"http://\*\*\*@host/x was stored without its password .* dataset.train=URL"):
        require_whole("http://***@host/x", "dataset.train")
    require_whole("http://ann:pa55@host/x", "dataset.train")
