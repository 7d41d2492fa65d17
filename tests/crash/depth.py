"""How many changes a power loss loses by choice, in all tests of this directory.

One finds every planted bug; two at once everywhere are for the night (the profiles `deep` and `search`), where there is
time for the many states that they have.
"""

from __future__ import annotations

from hypothesis import settings

_NIGHT = ("deep", "search")


def cuts() -> int:
    """For the histories: two already in the main job."""
    return 1 if settings.get_current_profile_name() == "gate" else 2


def cuts_of_many() -> int:
    """For tests that enumerate the states of thousands of runs: two only at night."""
    return 2 if settings.get_current_profile_name() in _NIGHT else 1
