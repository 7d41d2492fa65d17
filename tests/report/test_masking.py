"""Masking: no format shows the value of a secret-like key.

Method: values under telling keys in JSON, in Python's spelling, in JSON inside text, cut off, and repeated elsewhere.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import pytest
from rich.console import Console

from storecheck.report import html, junit, markdown, notices, terminal
from storecheck.report.document import Run, dumps, from_json, load, to_json
from storecheck.report.examples import masked
from storecheck.report.masking import mask, mask_run, mask_text, secret_values
from storecheck.report.merging import join_examples
from storecheck.report.spots import MASK, is_secret_key
from storecheck.verdict import Failure, PromiseVerdict
from tests.report.making import GOLDEN
from tests.report.test_plugin import PROMISES

SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "key", ["apiKey", "auth_token", "PASSWORD", "Cookie", "client-secret", "privateKey", "api_key", "secrets", "pwd"]
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
        f"{{'authToken': b'{SECRET}'}}",
        f"def login(token: str = '{SECRET}') -> None:",
        f"api_key: Optional[str] = '{SECRET}'",
        f"assert config.token == '{SECRET}'",
        f'assert entry["authToken"] == "{SECRET}"',
        f"assert entry.get('authToken') != '{SECRET}'",
        f"Login(token=SecretStr('{SECRET}'))",
        f"credentials = {{'user': 'me', 'more': ['{SECRET}']}}",
        f"Cookie: a=b; c={SECRET}",
        f"set(key='main', field='apiKey', value='{SECRET}')",
        f'{{"field": "apiKey", "value": "{SECRET}"}}',
        f"pytest --api-key {SECRET} -x",
        f"['pytest', '--token', '{SECRET}']",
        f"--example-database redis://:{SECRET}@host/0",
        f"+  where '{SECRET}' = Settings(a=1).token",
        f'token = """{SECRET}"""',
        repr(f"first\ntoken={SECRET}\nlast"),
    ],
)
def test_text_is_masked_in_every_spelling(text: str) -> None:
    """JSON, Python, command lines, headers, JSON in JSON, and text that was cut off."""
    assert SECRET not in mask_text(text)
    assert MASK in mask_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "usage.totalTokens == 5",
        "token=None, secret=True",
        "'a-secret' == 'another'",
        '{"label": "token", "model": "opus"}',
        "assert tokens == ['a']",
    ],
)
def test_what_is_no_secret_is_left(text: str) -> None:
    """Counts, nothing, values that read like keys, and what stands beside them."""
    assert mask_text(text) == text
    assert secret_values([text]) == set()


def test_a_secret_is_masked_in_other_spellings_and_cut_off() -> None:
    """Escaped as JSON or Python escape it, in an address, in base64, and where pytest or a lane cut it."""
    secret = 'swordfish "7" ü/end'
    for text in (
        json.dumps(secret),
        json.dumps(json.dumps(secret)),
        repr(secret),
        repr(secret.encode()),
        f"https://host/?q={quote(secret, safe='')}",
        f"Basic {base64.b64encode(secret.encode()).decode()}",
        "assert 'swordfish...' == 'x'",
        "write(<f>, b'swordfish…') = 9",
        'SWORDFISH "7" Ü/END',
    ):
        assert "swordfish" not in mask_text(text, {secret}).lower()
        assert MASK in mask_text(text, {secret}), text
    encoded = base64.b64encode(secret.encode()).decode()
    assert encoded.endswith("=")
    assert mask_text(f"{encoded} and {encoded.rstrip('=')}", {secret}) == f"{MASK}= and {MASK}"


@pytest.mark.parametrize("text", ["…and-more", "...and-more", "…fish-and-more", "'...dfish-and-more' == 'x'"])
def test_the_end_of_a_secret_after_an_ellipsis_is_masked(text: str) -> None:
    """As pytest and lanes cut what is too long at its beginning."""
    assert "and-more" not in mask_text(text, {"swordfish-and-more"})


@pytest.mark.parametrize("kind", ["", "RSA ", "EC "])
def test_a_private_key_is_masked_without_a_name(kind: str) -> None:
    """Its header is enough."""
    header = f"-----BEGIN {kind}PRIVATE KEY-----"
    text = f"{header}\nMIIEvQIBADANBgkqhkiG9w0BAQEF\n-----END {kind}PRIVATE KEY-----"
    assert "MIIEvQ" not in mask_text(text)
    assert mask_text(text).startswith(header)


def test_marks_of_a_masked_call_are_left_out() -> None:
    """They count characters of what the call was; those of other calls stay."""
    calls = [{"call": f"set('s', 'apiKey', '{SECRET}')", "loose": [4, 7]}, {"call": "load('s')", "loose": [5, 8]}]
    assert [each["loose"] for each in mask(calls)] == [[], [5, 8]]


def test_what_may_be_code_is_masked_in_its_place_only() -> None:
    """A bracket that nothing closes: its words stand in other texts for something else."""
    text = f"token = compile(['{SECRET}', 'model'"
    assert mask_text(text) == f"token = compile(['{MASK}', '{MASK}'"
    assert secret_values([text]) <= {SECRET}
    assert secret_values([f"{text}])"]) == {SECRET, "model"}


def test_a_number_is_masked_as_a_whole_only() -> None:
    """A secret number is no part of a time stamp."""
    value = {"token": 1767, "at": "1767225600 and 1767"}
    assert mask(value) == {"token": MASK, "at": f"1767225600 and {MASK}"}


def test_short_values_and_base64_are_masked_at_their_keys() -> None:
    """Where they stand; elsewhere a short value may be anything."""
    content = base64.b64encode(b'\xff{"apiKey": "' + SECRET.encode() + b'"}').decode()
    value = {"pin_secret": "x7", "more": "x7", "pairs": [["token", "x8"]], "image": {"base64": content}, "token": True}
    masked_value = {
        "pin_secret": MASK,
        "more": "x7",
        "pairs": [["token", MASK]],
        "image": {"base64": MASK},
        "token": True,
    }
    assert mask(value) == masked_value
    assert mask({"field": "a.token", "values": ["1", None], "expected": "2"}) == {
        "field": "a.token",
        "values": [MASK, None],
        "expected": MASK,
    }


@pytest.mark.parametrize(
    "text",
    [
        "x" * 200_000, "\\" * 100_000, "token=(" * 20_000, 'token=("' * 20_000, '"token": ' * 20_000, "a." * 25_000,
        "://aaaa:" * 20_000, "where 'x' " * 10_000, "'a', " * 40_000, "token" + " " * 200_000, "'token', a, " * 20_000,
        "'token', 'a', " * 10_000,
    ],
    ids=lambda text: text[:10],
)  # fmt: skip
def test_masking_takes_time_in_proportion_to_the_text(text: str) -> None:
    """Text that is made to be tried in every place takes seconds, where trying all places takes many minutes."""
    began_s = time.process_time()
    mask_text(text, {SECRET})
    secret_values([text])
    assert time.process_time() - began_s < 10


def test_a_secret_is_masked_wherever_it_stands_again() -> None:
    """A value that stands under a secret-like key once is masked everywhere."""
    value = {"files": {"a.json": json.dumps({"x": {"apiKey": SECRET}})}, "raw": f"returned {SECRET} twice {SECRET}"}
    assert SECRET not in json.dumps(mask(value))


def test_a_field_named_by_another_member_is_masked() -> None:
    """An operation that sets a secret-like field has its value masked."""
    assert secret_values({"field": "apiKey", "value": SECRET}) == {SECRET}
    assert secret_values({"field": "label", "value": SECRET}) == set()


@pytest.mark.parametrize(
    "text",
    [
        f"update(SetField('agent:main', 'apiKey', '{SECRET}'))",
        f'rewrite(b\'{{"apiKey": "{SECRET}"}}\', "rename")',
        json.dumps([f"save({{'m': {{'password': '{SECRET}'}}}})"]),
    ],
)
def test_a_secret_in_a_call_is_found_and_masked(text: str) -> None:
    """In the lines of a told counterexample, too, wherever it stands again."""
    assert secret_values([text]) == {SECRET}
    assert SECRET not in mask_text(text)
    assert SECRET not in json.dumps(mask({"calls": [text], "raw": f"returned {SECRET}"}))


def shown_in_terminal(run: Run) -> str:
    """What a terminal shows."""
    out = io.StringIO()
    terminal.show(run, Console(file=out, width=200))
    return out.getvalue()


FORMATS: dict[str, Callable[[Run], str]] = {
    "json": dumps,
    "html": html.render,
    "markdown": markdown.render,
    "junit": junit.render,
    "github": lambda run: "\n".join(notices.github(run)),
    "gitlab": lambda run: json.dumps(notices.gitlab(run), ensure_ascii=False),
    "terminal": shown_in_terminal,
}


def dirty_run() -> Run:
    """A run with the secret in every place where a run has text; no text says that it is one."""
    run = load(GOLDEN / "B65.json")
    example = replace(
        run.examples[0], title=f"lost {SECRET}", verdict=(f"It is {SECRET}.",), test=f"test_x[{SECRET}]",
        replay=f"replay {SECRET}", raw=SECRET, inputs=SECRET, reproducer=f"# {SECRET}", promise_text=SECRET,
        environment={"Parameter key": SECRET}, sequence=replace(run.examples[0].sequence, about=SECRET),  # type: ignore[type-var]
    )  # fmt: skip
    failure = Failure(nodeid=f"test_y[{SECRET}]", example=f"AssertionError: {SECRET}", replay=f"X={SECRET} pytest")
    promise = PromiseVerdict(
        id="A1", title=SECRET, text=SECRET, outcome="FAILED", tests=(f"test_y[{SECRET}]",), tests_passed=0,
        tests_failed=1, tests_skipped=0, tests_unfinished=0, evidence={}, mutants_killed=(), mutants_survived=(),
        mutants_untried=(), failures=(failure,),
    )  # fmt: skip
    shards = (replace(run.shards[0], environment={"arguments": f"--seed {SECRET}"}),)
    return replace(
        run, examples=(example,), promises=(promise,), other_failures=(failure,), shards=shards, bounds=(SECRET,)
    )


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_shows_a_secret(name: str) -> None:
    """A value that is known to be a secret stands in no format, wherever a run has it."""
    assert SECRET in FORMATS[name](dirty_run())
    text = FORMATS[name](mask_run(dirty_run(), secrets={SECRET}))
    assert SECRET not in text
    assert MASK in text


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_shows_a_secret_of_the_counterexample(name: str) -> None:
    """An example that is made of a document with a secret shows it in no format."""
    run = load(GOLDEN / "B76.json")
    document = {"program": {"files": {"sessions.json": json.dumps({"agent": {"apiKey": SECRET}})}}}
    dirty = replace(run.examples[0], title=f"lost {SECRET}", raw=f"{SECRET}", inputs=json.dumps(document))
    text = FORMATS[name](replace(run, examples=join_examples([masked(dirty, document)])))
    assert SECRET not in text
    assert MASK in text


def test_a_secret_that_is_a_word_of_the_document_does_not_break_it() -> None:
    """The document is still one that can be read."""
    run = replace(dirty_run(), examples=load(GOLDEN / "B65.json").examples)
    assert from_json(to_json(mask_run(run, secrets={"sequence", "FAILED"}))).promises[0].outcome == "FAILED"


RACE = """
import pytest
from storecheck import Operation, PreemptionBounded, Program, process
from storecheck.drawing import verify

SECRET = "SECRET-VALUE"

def lost(execution):
    return None if execution.files()["counter"] == b"2" else "an addition is lost, seen with " + SECRET

@pytest.mark.promise("A1")
def test_additions_are_kept():
    add = process(Operation("add", {"amount": 1}))
    files = {"counter": b"0", "config.json": b'{"apiKey": "' + SECRET.encode() + b'"}'}
    program = Program(adapter="storecheck.adapters:RenamingCounter", processes=(add, add), files=files)
    verify(program, strategy=PreemptionBounded(1), check=lost, check_path="test_race:lost")
""".replace("SECRET-VALUE", SECRET)


def test_a_report_of_a_failing_test_shows_no_secret(pytester: pytest.Pytester) -> None:
    """From the test to the files; the counterexample, which says its secret in its finding, is not written at all."""
    pytester.makepyfile(promise_list=PROMISES, test_race=RACE)
    pytester.makeini("[pytest]\npromises = promise_list:ALL\npythonpath = .\n")
    pytester.runpytest_subprocess("-p", "no:randomly", "--report-dir", "report", timeout=120)
    files = [path for path in (pytester.path / "report").rglob("*") if path.is_file()]
    assert {"run.json", "report.html", "summary.md", "junit.xml", "codequality.json"} <= {path.name for path in files}
    shown = [path.name for path in files if SECRET in path.read_text(encoding="utf-8")]
    assert shown == []
    assert not list((pytester.path / "report").rglob("counterexample.json"))
