"""Numbers the versions of a file that several processes replace by rename, so that an `Oracle` can judge the run.

With one writer, operation n leaves version n. With several, the order of the versions is the order of their renames,
and an operation is acknowledged with the version that its process published last. `number_publications` puts the marks
for that into a recording. For stores that replace their file by rename, and for no others.
"""

from __future__ import annotations

from storecheck.machine.events import Created, DiskEvent, Linked, Marked, Renamed, Truncated, Written

from .states import Recording


def number_publications(
    recording: Recording, *, name: str, acknowledged: str = "returned "
) -> tuple[Recording, list[bytes | None]]:
    """The recording with marks that number its publications, and the content of each version, 0 being what was there.

    Args:
        recording: what several processes did.
        name: last component of the file's path; no other directory may have a file of that name.
        acknowledged: how the labels begin of those of its marks that say that an operation of their process returned.
    """
    contents = {serial: bytearray(entry.content) for serial, entry in recording.disk.inodes.items()}
    present = [serial for (_, found), serial in recording.disk.names.items() if found == name]
    versions: list[bytes | None] = [bytes(contents[present[0]]) if present else None]
    published_by: dict[int, int] = {}
    events: list[DiskEvent] = []
    for event in recording.events:
        if isinstance(event, Created):
            contents[event.serial] = bytearray()
        elif isinstance(event, Written):
            _write(contents[event.serial], event)
        elif isinstance(event, Truncated):
            content = contents[event.serial]
            content[:] = content[: event.size].ljust(event.size, b"\0")
        elif isinstance(event, Renamed | Linked) and event.name == name:
            versions.append(bytes(contents[event.serial]))
            published_by[event.process] = len(versions) - 1
            events.append(Marked(step=event.step, process=event.process, label=f"begin {len(versions) - 1}"))
        if not isinstance(event, Marked):
            events.append(event)
        elif event.label.startswith(acknowledged) and event.process in published_by:
            label = f"ack {published_by[event.process]}"
            events.append(Marked(step=event.step, process=event.process, label=label))
    return Recording(disk=recording.disk, events=tuple(events), owner=recording.owner), versions


def _write(content: bytearray, event: Written) -> None:
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(event.content)] = event.content
