"""`adaptd run`: the one door from the command line to the daemon, and so to torch."""

from __future__ import annotations

import os

import click

from adaptd.cli import options


@click.command()
@options.config_option
def run() -> int:
    """Run the daemon in the foreground.

    SIGTERM drains and stops; a second one forces.

    \b
    Example:
      adaptd run --config store
    """
    from adaptd import config

    settings, paths = config.load(options.given())  # first: a bad configuration is told before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads of one pool must not spin in the way of the others
    from adaptd.daemon import run as serve

    return serve(settings, paths)
