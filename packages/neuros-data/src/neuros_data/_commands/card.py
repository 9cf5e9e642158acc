"""`neuros-data card`: what a store holds."""

from pathlib import Path

import click

from neuros_data._commands._outputs import OK, outputs, write
from neuros_data.store import open_store


@click.command("card")
@click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
@click.option("--html", is_flag=True, help="One page with figures in place of Markdown.")
@outputs
def write_card(directory: Path, *, html: bool, as_json: bool, quiet: bool) -> int:
    """Describe STORE: who, how much, labels, gaps, splits with their proof, faults, licence."""
    from neuros_data.card import data_card

    card = data_card(open_store(directory))
    text = card.to_html() if html else card.to_markdown()
    content = {"ok": True, "title": card.title, "html" if html else "markdown": text}
    write(text, content, as_json=as_json, quiet=quiet)
    return OK
