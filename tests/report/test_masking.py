"""Masking: no format shows the value of a secret-like key.

Method: values under telling keys in JSON, in Python's spelling, in JSON inside text, cut off, and repeated elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from storecheck.report import html, junit, markdown
from storecheck.report.document import dumps, load
from storecheck.report.examples import masked
from storecheck.report.masking import MASK, is_secret_key, mask, mask_text, secret_values
from storecheck.report.merging import join_examples
from tests.report.making import GOLDEN

SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "key", ["apiKey", "auth_token", "PASSWORD", "Cookie", "client-secret", "privateKey", "api_key"]
)
def test_keys_of_secrets_are_recognised(key: str) -> None:
    """A key that reads like a secret's is one."""
    assert is_secret_key(key)


@pytest.mark.parametrize("key", ["totalTokens", "key", "sessionId", "author", "keyboard", "monkey", "secretary"])
def test_other_keys_are_left_alone(key: str) -> None:
    """Counts of tokens and ordinary words are no secrets."""
    assert not is_secret_key(key)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"apiKey": "{SECRET}"}}',
        f"{{'password': '{SECRET}'}}",
        f"set(token='{SECRET}')",
        f"AUTH_TOKEN={SECRET} pytest",
        f"Authorization: Bearer {SECRET}",
        json.dumps(json.dumps({"secret": SECRET})),
        f'b\'{{\\n  "apiKey": "{SECRET}…',
    ],
)
def test_text_is_masked_in_every_spelling(text: str) -> None:
    """JSON, Python, command lines, headers, JSON in JSON, and text that was cut off."""
    assert SECRET not in mask_text(text)
    assert MASK in mask_text(text)


def test_a_secret_is_masked_wherever_it_stands_again() -> None:
    """A value that stands under a secret-like key once is masked everywhere."""
    value = {"files": {"a.json": json.dumps({"x": {"apiKey": SECRET}})}, "raw": f"returned {SECRET} twice {SECRET}"}
    assert SECRET not in json.dumps(mask(value))


def test_a_field_named_by_another_member_is_masked() -> None:
    """An operation that sets a secret-like field has its value masked."""
    assert secret_values({"field": "apiKey", "value": SECRET}) == {SECRET}
    assert secret_values({"field": "label", "value": SECRET}) == set()


def test_no_format_shows_a_secret() -> None:
    """An example that is made of a document with a secret shows it in no format."""
    run = load(GOLDEN / "B76.json")
    document = {"program": {"files": {"sessions.json": json.dumps({"agent": {"apiKey": SECRET}})}}}
    dirty = replace(run.examples[0], title=f"lost {SECRET}", raw=f"{SECRET}", inputs=json.dumps(document))
    clean = replace(run, examples=join_examples([masked(dirty, document)]))
    for text in (dumps(clean), html.render(clean), markdown.render(clean), junit.render(clean)):
        assert SECRET not in text
        assert MASK in text
