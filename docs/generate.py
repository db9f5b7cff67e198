"""Write the pages of the reference that are made from the code: python docs/generate.py.

A test compares the pages with what this script makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cyclopts import App

REFERENCE = Path(__file__).resolve().parent / "reference"

COMMAND_LINE = """\
# Command line

<!-- Made by docs/generate.py from the commands. Do not edit. -->

`slant COMMAND --help` prints the same in the terminal. `slant --version` prints the version.

`slant COMMAND ... --options FILE` reads options from a TOML file, one per line, named as on the command line but
without the leading dashes (`threads = 2`). Options on the command line take precedence. `slant-bids` lacks it.

| exit status | meaning |
|--:|---|
| 0 | done |
| 1 | some scans failed, the others are done; the failures are listed |
| 2 | nothing could be done: one line on stderr says what was found, what was expected and what to do |
| 130, 143 | interrupted by Ctrl-C, terminated by SIGTERM; no partial files are left |

"""

REGIONS = """\
# Regions

<!-- Made by docs/generate.py from the label protocol. Do not edit. -->

The label protocol BrainCOLOR has {regions} regions and the background (id 0). `slant labels` prints the look-up table
for other programs. The ids, names and colours come from SLANT, the tissue classes from the MICCAI 2012 Multi-Atlas
Labeling Challenge, in which brain stem and ventral DC are white matter, and the lobes from MUSE with a few changes
([atlas.toml](../../atlases/braincolor/atlas.toml), [NOTICE](../../NOTICE)).

The side is `L`, `R`, or `midline` for regions without a partner.

| group | regions |
|---|---|
| tissue | {tissues} |
| lobe | {lobes} |

| id | name | abbreviation | side | tissue | lobe | colour |
|--:|---|---|---|---|---|---|
"""


def command_line() -> str:
    """Markdown of every command of `slant` and `slant-bids`."""
    import slant.cli  # noqa: F401 (adds the commands)
    from slant.cli.app import app
    from slant.cli.bids import app as bids

    parts = [part for name in sorted(set(app) - {"--help", "-h", "--version"}) for part in _command(app[name], "slant")]
    return COMMAND_LINE + "\n".join([*parts, *_command(bids, "")])


def regions() -> str:
    """Markdown of all regions of the protocol."""
    from slant.io.resources import load_protocol

    protocol = load_protocol()
    rows = []
    for region in protocol.regions[1:]:
        color = "#{:02x}{:02x}{:02x}".format(*region.color)
        swatch = f'<span style="background:{color}">&emsp;</span>&nbsp;`{color}`'
        cells = region.id, region.name, region.abbreviation, region.hemisphere, region.tissue, region.lobe, swatch
        rows.append("| " + " | ".join(map(str, cells)) + " |\n")

    def counted(by: Any) -> str:
        return ", ".join(f"{group} {len(ids)}" for group, ids in protocol.groups(by).items())

    return REGIONS.format(regions=len(rows), tissues=counted("tissue"), lobes=counted("lobe")) + "".join(rows)


def _command(command: App, parent: str) -> Iterator[str]:
    name = f"{parent} {command.name[0]}".strip()
    children = [command[child] for child in command if not child.startswith("-")]
    runs = command.default_command is not None
    arguments = [a for a in command.assemble_argument_collection(parse_docstring=True) if a.show] if runs else []
    positional = [a for a in arguments if not a.names[0].startswith("-")]
    options = [a for a in arguments if a.names[0].startswith("-")]
    positions = (_positional_usage(a) for a in positional)
    usage = [name, *positions, *(["[OPTIONS]"] if options else [] if runs else ["COMMAND"])]
    yield f"## {name}\n\n{_summary(command)}\n\n```sh\n{' '.join(usage)}\n```\n"
    if positional:
        rows = [f"| `{a.names[0]}` | {_text(a)} |" for a in positional]
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows]) + "\n"
    if children:
        yield f"Commands: {', '.join(f'`{name} {child.name[0]}`' for child in children)}.\n"
    if options:
        rows = [f"| {_names(a)} | {_values(a)} | {_default(a)} | {_text(a)} |" for a in options]
        yield "\n".join(["| option | value | default | meaning |", "|---|---|---|---|", *rows]) + "\n"
    for child in children:
        yield from _command(child, name)


def _summary(command: App) -> str:
    return " ".join(command.help.split("\n\n")[0].split())


def _positional_usage(argument: Any) -> str:
    several = get_origin(argument.hint) is tuple
    return f"{argument.names[0]}{'...' if several else ''}"


def _names(argument: Any) -> str:
    return ", ".join(f"`{name}`" for name in argument.names)


def _values(argument: Any) -> str:
    kinds = {bool: "", int: "integer", float: "number", str: "text", Path: "path"}
    hint, several = argument.hint, ""
    while get_args(hint) and get_origin(hint) is not Literal:
        several = ", several" if get_origin(hint) is tuple else several
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    choices = argument.get_choices()
    return (", ".join(f"`{choice}`" for choice in choices) if choices else kinds[hint]) + several


def _default(argument: Any) -> str:
    default = argument.field_info.default
    if default is True:
        return f"`{argument.names[0]}`"
    if default is False and len(argument.names) > 1 and argument.negatives:
        return f"`{argument.negatives[0]}`"
    return "" if default is False or default in (None, ()) else f"`{default}`"


def _text(argument: Any) -> str:
    text = " ".join((argument.parameter.help or "").split())
    return re.sub(r"([|*<])", r"\\\1", text)


def main() -> None:
    """Write both pages."""
    (REFERENCE / "command-line.md").write_text(command_line(), encoding="utf-8")
    (REFERENCE / "regions.md").write_text(regions(), encoding="utf-8")


if __name__ == "__main__":
    main()
