"""The same contract for other stores: adapters, and an examination that says which promises are kept and broken.

`python -m storecheck.peers` examines the built-in adapters. See `protocol` for what an adapter is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PEERS: Final[Mapping[str, str]] = {
    "json + filelock": "storecheck.peers.json_filelock:Adapter",
    "sqlite3": "storecheck.peers.sqlite:Adapter",
    "diskcache": "storecheck.peers.disk_cache:Adapter",
    "TinyDB": "storecheck.peers.tinydb_json:Adapter",
    "pickleDB": "storecheck.peers.pickle_db:Adapter",
    "Django file sessions": "storecheck.peers.django_sessions:Adapter",
}
"""The built-in adapters, by the name of their store."""
