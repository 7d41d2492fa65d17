"""Sphinx extension: the help of a click command and of its subcommands, as they print it.

One directive, `command-help module:attribute`. The page cannot say something else than the program does.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

WIDTH = 90


def help_texts(command: click.Command, *, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Name and help of `command` and, depth first, of its subcommands."""
    # Narrower than click's default for a wide terminal, and the same whoever builds the page.
    context_class: Any = command.context_class
    context: click.Context = context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, **command.context_settings
    )
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for subcommand in command.list_commands(context):
            found = command.get_command(context, subcommand)
            if found is not None:
                yield from help_texts(found, name=subcommand, parent=context)


class CommandHelp(SphinxDirective):
    """`command-help`: a section per command."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Load the command and write down what it says."""
        name, location = self.arguments
        module, _, attribute = location.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        sections = (f"## `{path}`\n\n~~~~text\n{text}\n~~~~\n" for path, text in help_texts(command, name=name))
        return self.parse_text_to_nodes("\n".join(sections), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
