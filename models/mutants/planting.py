"""What a mutant is, and how it is planted into source text."""

from __future__ import annotations

import re
from dataclasses import dataclass

PACKAGE = "sessionstore"


class MutantError(Exception):
    """A mutant that cannot be planted: the source is not what it was written for."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One replacement in one module.

    Attributes:
        module: name inside the package, such as `lock`.
        old: text that the module's source contains exactly once.
        new: what stands in its place.
    """

    module: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A copy of the store with one bug.

    Attributes:
        id: the bug class of `bugs`, such as `B64`, with a letter if there are several of the class.
        bug_class: a few words.
        description: what the planted bug does, in one sentence.
        promise: id of a promise that it breaks.
        patches: how it is planted.
        killers: pytest nodes; with the mutant, one that names `promise` fails; without, all pass.
    """

    id: str
    bug_class: str
    description: str
    promise: str
    patches: tuple[Patch, ...]
    killers: tuple[str, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"B[0-9]{2}[a-z]?", self.id):
            raise MutantError(f"mutant id {self.id!r} is not B, two digits and perhaps a letter")
        if not self.patches or not self.killers:
            raise MutantError(f"mutant {self.id} has no patches or no killers")

    @property
    def modules(self) -> tuple[str, ...]:
        """Full names of the modules that it changes."""
        return tuple(dict.fromkeys(f"{PACKAGE}.{patch.module}" for patch in self.patches))

    def transform(self, module: str, source: str) -> str:
        """The source of `module`, a full name, with the bug in it; other modules' sources come back unchanged.

        Raises:
            MutantError: a patch's old text is not in the source exactly once.
        """
        for patch in self.patches:
            if module != f"{PACKAGE}.{patch.module}":
                continue
            count = source.count(patch.old)
            if count != 1:
                raise MutantError(
                    f"mutant {self.id}: its text is {count} times in {module}, not once. The store has changed: "
                    f"write the patch anew. It replaces:\n{patch.old}"
                )
            source = source.replace(patch.old, patch.new)
        return source
