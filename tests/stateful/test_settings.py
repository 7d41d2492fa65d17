"""Settings: which texts in the environment mean what, when they are read, and what is logged about bad ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from models import specification, strategies
from models.caches import Limits
from tests.stateful.checker import (
    CACHE_TTL_VARIABLE,
    OBJECT_CACHE_VARIABLE,
    SERIALIZED_CACHE_VARIABLE,
    VARIABLES,
    Checker,
    same,
)
from tests.stateful.machines import StoreMachine, pick, run, sized_file
from tests.stateful.world import SETTLE_NS, image, world

DEFAULTS = {
    OBJECT_CACHE_VARIABLE: specification.DEFAULT_OBJECT_CACHE_MAX_BYTES,
    CACHE_TTL_VARIABLE: specification.DEFAULT_CACHE_TTL_MS,
    SERIALIZED_CACHE_VARIABLE: specification.DEFAULT_SERIALIZED_CACHE_MAX_BYTES,
}
FIELDS = {
    OBJECT_CACHE_VARIABLE: "object_cache_max_bytes",
    CACHE_TTL_VARIABLE: "cache_ttl_ms",
    SERIALIZED_CACHE_VARIABLE: "serialized_cache_max_bytes",
}


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Each test starts without the three variables and leaves none."""
    before = {variable: os.environ.pop(variable, None) for variable in VARIABLES}
    yield
    for variable, text in before.items():
        set_variable(variable, text)


def set_variable(variable: str, text: str | None) -> None:
    """Set or unset a variable of this process, as the store reads it."""
    os.environ.pop(variable, None)
    if text is not None:
        os.environ[variable] = text


def limits_in_force() -> Limits:
    """What the specification makes of the environment as it is now."""
    return Limits(
        **{
            FIELDS[variable]: specification.parse_setting(os.environ.get(variable), default=default)
            for variable, default in DEFAULTS.items()
        }
    )


@pytest.mark.promise("SET1", "SET2", "SET3")
@given(st.sampled_from(VARIABLES), strategies.environment_strings())
def test_every_text_means_what_the_grammar_says(variable: str, text: str) -> None:
    """Trimmed, signed, ASCII digits up to 2**53-1; anything else is the default."""
    found = image(0).package.Settings.from_env({variable: text})
    for name, default in DEFAULTS.items():
        expected = specification.parse_setting(text, default=default) if name == variable else default
        same(f"{FIELDS[name]} for {variable}={text!r}", getattr(found, FIELDS[name]), expected)


@pytest.mark.promise("SET1", "SET2", "SET3")
@pytest.mark.parametrize(
    ("text", "value"),
    [("5\n", 5), ("+5", 5), ("007", 7), ("-0", 0), ("9007199254740991", 2**53 - 1), ("\ufeff 12\u00a0", 12)],
)
def test_good_texts_by_example(text: str, value: int) -> None:
    """The contract's examples, written out."""
    for variable, field in FIELDS.items():
        assert getattr(image(0).package.Settings.from_env({variable: text}), field) == value


@pytest.mark.promise("SET1", "SET2", "SET3")
@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", "1.0", "1_000", "0x10", "١٢", "9007199254740992", "5\x1c", "NaN", "12 34"]
)
def test_bad_texts_mean_the_default_and_are_logged_once(text: str) -> None:
    """One warning for each variable and process, naming variable, value and the accepted form."""
    for variable, default in DEFAULTS.items():
        with world() as opened:
            set_variable(variable, text)
            store = opened.store(0, opened.path())
            for _ in range(3):
                store.load()
            records = opened.logged()
            set_variable(variable, None)
        assert [record.levelname for record in records] == ["WARNING"]
        message = records[0].getMessage()
        for told in (variable, repr(text), str(default), "whole", "ASCII digits"):
            assert told in message


class SettingsMachine(StoreMachine):
    """The environment changes between operations; stores with settings of their own do not care."""

    images = 2

    @initialize()
    def begin(self) -> None:
        for variable in VARIABLES:
            set_variable(variable, None)
        self.start()
        self.explicit = Checker(self.check.world, limits=Limits(object_cache_max_bytes=500, cache_ttl_ms=1000))
        self.check.by_environment = True
        self.check.rewrite(sized_file(800), "rename")

    @rule(
        variable=st.sampled_from(VARIABLES),
        text=st.one_of(
            st.none(),
            st.sampled_from(("0", "200", " 799 ", "+800", "2000", "-1", "0x10", "")),
            strategies.environment_strings(),
        ),
    )
    def environment_changes(self, variable: str, text: str | None) -> None:
        try:
            set_variable(variable, text)
        except UnicodeEncodeError:
            return  # a lone surrogate that no environment can hold
        self.check.limits = limits_in_force()

    @rule(number=pick)
    def load(self, number: int) -> None:
        self.check.load(self.target(number))

    @rule(number=pick)
    def read(self, number: int) -> None:
        self.check.read("padded", self.target(number))

    @rule(size=st.sampled_from((150, 799, 800, 2000)), variant=pick)
    def foreign_rewrite(self, size: int, variant: int) -> None:
        self.check.rewrite(sized_file(max(size, 200), variant=variant), "rename")

    @rule(duration_ns=st.sampled_from((1_000_000, SETTLE_NS)))
    def time_passes(self, duration_ns: int) -> None:
        self.check.world.advance(duration_ns)

    @rule(number=pick)
    def restart(self, number: int) -> None:
        self.check.restart(number % self.images)

    @rule(number=pick)
    def load_with_settings(self, number: int) -> None:
        """An explicit `Settings(...)` wins over the environment, and its operations log nothing about it."""
        self.explicit.contents = self.check.contents
        self.explicit.seen = self.check.seen
        self.explicit.load(self.target(number))

    def teardown(self) -> None:
        for variable in VARIABLES:
            set_variable(variable, None)
        super().teardown()


@pytest.mark.promise("SET1", "SET2", "SET3", "SET4", "WARN1", "CACHE2")
@pytest.mark.parametrize("number", range(2))
def test_the_environment_is_read_at_each_operation(number: int, evidence: Any) -> None:
    """Limits follow the environment from one operation to the next, unless the store has settings of its own."""
    run(SettingsMachine, number=number, evidence=evidence)


@pytest.mark.promise("SET4")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("object_cache_max_bytes", -1),
        ("cache_ttl_ms", 1.5),
        ("serialized_cache_max_bytes", True),
        ("lock_timeout_s", -0.1),
        ("lock_timeout_s", float("nan")),
        ("maintenance_mode", "sometimes"),
        ("max_entries", "500"),
        ("rotate_bytes", 2**53),
    ],
)
def test_explicit_settings_are_validated(field: str, value: object) -> None:
    """A bad value by hand raises and says which; it never falls back to a default."""
    with pytest.raises(ValueError, match=field):
        image(0).package.Settings(**{field: value})
