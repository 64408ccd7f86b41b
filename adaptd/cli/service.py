"""`adaptd install-service`: unit, user and folders of the daemon as a service of systemd."""

from __future__ import annotations

import os
from pathlib import Path

import click

from adaptd.cli import show
from adaptd.errors import CannotStart


@click.command("install-service")
@click.option("--dry-run", is_flag=True, help="Print every file and command; write and run nothing.")
@click.option("--force", is_flag=True, help="Write over a unit that was changed; never over the configuration.")
@click.option("--root", metavar="DIR", type=click.Path(path_type=Path),
              help="Write into a package's tree, below /usr/lib there, and run nothing.")
@click.option("--program", metavar="PATH", type=click.Path(path_type=Path), help="The adaptd that the unit starts (this one).")
def install_service(dry_run: bool, force: bool, root: Path | None, program: Path | None) -> None:
    """Make adaptd a service of systemd: unit, user, folders, a first configuration.

    Run again it changes nothing. The service is neither enabled nor started.

    \b
    Example:
      adaptd install-service --dry-run
    """
    from adaptd import install

    if not (dry_run or root) and os.geteuid():
        raise CannotStart("only root can install a service", hint="sudo adaptd install-service, or look first: --dry-run")
    program = program or install.default_program()
    if not program.is_absolute():
        raise click.BadParameter("the path must be absolute", param_hint="--program")
    files = install.plan(program, root)
    if dry_run:
        for file in files:
            for line in (f"# {file.path} ({file.state}, mode {file.mode:04o})", *file.text.splitlines(), ""):
                show.line(line)
        for command in () if root else install.AFTERWARDS:
            show.line(f"# {' '.join(command)}")
        return
    install.write(files, force=force)
    for file in files:
        show.line(f"{file.path}: {_word(file.state)}")
    if not root:
        for done in install.settle():
            show.line(f"ran {done}")
        show.say("next: adaptd config check --config /etc/adaptd && systemctl enable --now adaptd")


def _word(state: str) -> str:
    return {"new": "written", "changed": "written over", "kept": "left as you have it"}.get(state, state)
