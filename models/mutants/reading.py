"""Planted bugs in reading files, values and the environment."""

from __future__ import annotations

from models.mutants.planting import Mutant, Patch

_READ = "tests/unit/test_promises_read.py::"
_CORRUPT = f"{_READ}test_a_corrupt_file_is_refused_and_kept"
_STRICT = f"{_READ}test_what_only_python_would_read_is_refused"
_UNSTORABLE = f"{_READ}test_what_cannot_be_stored_is_refused_before_anything_is_written"
_GRAMMAR = f"{_READ}test_the_grammar_of_the_environment"

_PARSE_OR_DROP = """            return parse_changed(self.path, content, base)
        except BaseException:
"""
_NOT_AN_OBJECT = "        if first is None:\n"
_INTEGER_SYNTAX = """    trimmed = text.strip(JS_WHITE_SPACE)
    if not _INTEGER.fullmatch(trimmed):
        return None
"""

READ_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "B80",
        "json: corrupt taken for empty",
        "A file that cannot be parsed counts as an empty store, and the next write destroys it.",
        "READ2",
        (
            Patch(
                "store",
                _PARSE_OR_DROP,
                _PARSE_OR_DROP.replace(
                    "        except BaseException:\n",
                    "        except ValueError:\n"
                    '            nothing = Content.of(b"{}")\n'
                    "            return Snapshot(self.path, nothing, parse(self.path, nothing))\n"
                    "        except BaseException:\n",
                ),
            ),
        ),
        (f"{_CORRUPT}[save-truncated]",),
    ),
    Mutant(
        "B84",
        "json: root that is not an object",
        "null and an empty array count as an empty store.",
        "READ2",
        (
            Patch(
                "snapshot",
                _NOT_AN_OBJECT,
                '        if text.strip() in {"null", "[]"}:\n            return self.index()\n' + _NOT_AN_OBJECT,
            ),
        ),
        (f"{_CORRUPT}[load-null]", f"{_CORRUPT}[load-an array]"),
    ),
    Mutant(
        "B85",
        "json: duplicate keys",
        "Of two equal keys in an entry the last one silently wins.",
        "READ3",
        (Patch("encoding", "    object_pairs_hook=_object_from_pairs,\n", ""),),
        (_STRICT,),
    ),
    Mutant(
        "B86",
        "json: NaN and infinities",
        "NaN is read, although no other program could read what is written then.",
        "READ3",
        (Patch("encoding", "    parse_constant=_refuse_constant,\n", ""),),
        (f"{_STRICT}[load-NaN]",),
    ),
    Mutant(
        "B86b",
        "json: NaN becomes null",
        "NaN and infinities in an entry are written as null.",
        "READ4",
        (
            Patch(
                "encoding",
                "            if not math.isfinite(plain):\n                raise self.refuse(path",
                "            if plain is None:\n                raise self.refuse(path",
            ),
        ),
        (f"{_UNSTORABLE}[save-NaN]",),
    ),
    Mutant(
        "B89",
        "json: byte order mark",
        "A file that begins with a byte order mark counts as corrupt.",
        "READ3",
        (Patch("snapshot", "        begin = len(_BOM) if text.startswith(_BOM) else 0\n", "        begin = 0\n"),),
        (f"{_READ}test_any_valid_layout_is_read",),
    ),
    Mutant(
        "B91",
        "json: keys coerced",
        'Keys that are not strings become strings, so that 1 and "1" are one.',
        "READ4",
        (
            Patch(
                "encoding",
                '                    raise self.refuse(path, f"key {key!r} is {type(key).__name__}, not a string")\n',
                "                    key = str(key)\n",
            ),
            Patch("encoding", "                if plain in copy:\n", "                if plain in copy and False:\n"),
        ),
        (f"{_UNSTORABLE}[save-an integer as key]",),
    ),
    Mutant(
        "B93",
        "environment: prefix parsed",
        "A number is read as far as it goes: 1e6 is 1.",
        "SET1",
        (
            Patch(
                "settings",
                _INTEGER_SYNTAX,
                """    match = _INTEGER.match(text.strip(JS_WHITE_SPACE))
    if match is None:
        return None
    trimmed = match.group()
""",
            ),
        ),
        (_GRAMMAR,),
    ),
    Mutant(
        "B94",
        "environment: whatever int() takes",
        "Underscores and digits of other scripts are understood.",
        "SET2",
        (
            Patch(
                "settings",
                _INTEGER_SYNTAX,
                """    trimmed = text.strip()
    try:
        int(trimmed)
    except ValueError:
        return None
""",
            ),
        ),
        (_GRAMMAR,),
    ),
    Mutant(
        "B95",
        "environment: 0 means the default",
        "A limit of 0, which switches a cache off, is taken for no value.",
        "SET1",
        (
            Patch(
                "settings",
                "        if value is None:\n            misread",
                "        if not value:\n            misread",
            ),
        ),
        (f"{_READ}test_zero_switches_the_cache_off",),
    ),
    Mutant(
        "B96",
        "environment: read once",
        "The environment is read by a store's first operation and never again.",
        "SET4",
        (
            Patch(
                "store",
                "        return Settings.from_env(os.environ)\n",
                "        self._settings = Settings.from_env(os.environ)\n        return self._settings\n",
            ),
        ),
        (f"{_READ}test_the_environment_is_read_at_each_operation",),
    ),
)
