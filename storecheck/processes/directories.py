"""The files of a store in a real directory: laid out at the beginning, read at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def lay_out(directory: str | Path, files: Mapping[str, bytes]) -> None:
    """Write the files, by path relative to the directory, and make the directories on their way."""
    for name, content in files.items():
        target = Path(directory, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def files_in(directory: str | Path) -> dict[str, bytes]:
    """Content of all files, by path relative to the directory."""
    root = Path(directory)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
