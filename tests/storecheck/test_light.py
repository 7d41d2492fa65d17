"""What a user of the store alone gets to feel of the verifier: nothing."""

from __future__ import annotations

import subprocess
import sys

EXTRAS = ("hypothesis", "greenlet", "multiprocess", "xdist", "jinja2", "rich", "junitparser")

SCRIPT = f"""
import sys
for name in {EXTRAS!r}:
    sys.modules[name] = None  # importing it fails, as where it is not installed
import storecheck.pytest_plugin
heavy = ("storecheck.machine", "storecheck.schedule", "sessionstore")
print("loaded:", sorted(name for name in sys.modules if name.startswith(heavy)))
"""


def test_the_pytest_plugin_loads_without_the_verifiers_packages() -> None:
    """The plugin, which pytest loads wherever the store is installed, needs pytest only and brings nothing heavy."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "loaded: []\n"), done.stderr


def test_every_public_name_of_the_verifier_is_there() -> None:
    """The names that the package announces can be imported from it, and no others."""
    import storecheck

    for name in storecheck.__all__:
        assert getattr(storecheck, name) is not None
        assert name in dir(storecheck)
    assert not hasattr(storecheck, "no_such_name")
