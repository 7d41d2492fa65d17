"""What the figures were measured on. Absolute times belong to this description; only ratios travel."""

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
MEASURED_DISTRIBUTIONS = ("orjson", "filelock", "tinydb", "pickledb", "diskcache")


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine at the start of a run. `load_average` is None where the system does not tell."""

    cores: int
    processor: str
    system: str
    python: str
    file_system: str
    load_average: float | None
    versions: tuple[tuple[str, str], ...]

    def lines(self) -> list[str]:
        """The description for people, with what makes the figures doubtful."""
        described = [
            f"{self.cores} cores ({self.processor}), {self.system}, {self.python}, {self.file_system}",
            ", ".join(f"{name} {version}" for name, version in self.versions),
        ]
        if self.file_system in MEMORY_FILE_SYSTEMS:
            described.append(
                f"{self.file_system} has no disk behind it: durability is free there. Choose --directory on a disk."
            )
        if self.load_average is not None and self.load_average > self.cores / 2:
            described.append(
                f"load average {self.load_average:.1f} at the start: other programs share the cores. "
                "Trust ratios before times."
            )
        return described


def describe_machine(directory: Path) -> Machine:
    """Describe this machine and the file system that holds `directory`."""
    return Machine(
        cores=os.cpu_count() or 1,
        processor=_processor(),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        file_system=file_system_of(directory),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        versions=tuple(_versions()),
    )


def file_system_of(directory: Path) -> str:
    """The type of the file system that holds `directory`, or "unknown file system"."""
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "unknown file system"
    # proc_pid_mountinfo(5): the third field is the device, the first one after " - " the type.
    for line in reversed(lines):
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "unknown file system"


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name in MEASURED_DISTRIBUTIONS:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:  # noqa: PERF203
            found.append((name, "not installed"))
    return found
