"""`adaptd demo`: another door, to the demonstration, which runs a daemon of its own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Your own JSONL: text and label, in the order of time.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("demo-report"), show_default=True,
              help="The folder for picture and report.")
def demo(data: Path | None, out: Path) -> int | None:
    """Show adaptd at work on a real stream, beside a nightly retraining.

    Ends by itself within minutes and says where picture and report are.

    \b
    Example:
      adaptd demo --out demo
    """
    from adaptd.demo import run

    return run(data, out)
