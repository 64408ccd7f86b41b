"""The command line. `COMMANDS` is the whole of it; each command imports what it needs inside.

Nothing on the way of `--help` and `status` imports torch, transformers, faiss, avalanche, sqlalchemy or pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

from adaptd import __version__
from adaptd.cli.group import LazyGroup
from adaptd.cli.options import config_option

COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("adaptd.cli.init:init", "Make a folder with a configuration, ready to run."),
    "run": ("adaptd.cli.run:run", "Run the daemon in the foreground."),
    "status": ("adaptd.cli.status:status", "Show what is live, how good it is, and what is wrong."),
    "history": ("adaptd.cli.status:history", "Show who or what changed something, when and why."),
    "versions": ("adaptd.cli.versions:versions", "List the versions of a domain."),
    "show": ("adaptd.cli.describe:version", "Show a version in full."),
    "diff": ("adaptd.cli.describe:diff", "Show what a version has more and less than another."),
    "fork": ("adaptd.cli.fork:fork", "Learn the journal again from a moment on, as configured and otherwise, and compare."),
    "tune": ("adaptd.cli.tune:tune", "Search settings of adaptation and retrieval on the store's own labels."),
    "rebuild": ("adaptd.cli.rebuild:rebuild", "Make a version again from the journal, and say whether it matches."),
    "snapshot": ("adaptd.cli.versions:snapshot", "Name the live state as a version."),
    "rollback": ("adaptd.cli.versions:rollback", "Go back to an earlier version, or to what was live at a moment."),
    "replay": ("adaptd.cli.versions:replay", "Learn again what a rollback took back, but for what was bad."),
    "promote": ("adaptd.cli.versions:promote", "Make a candidate live."),
    "switch": ("adaptd.cli.versions:switch", "Say that clients use adaptd's answers, not the incumbent's."),
    "adapt": ("adaptd.cli.versions:adapt", "Train a candidate and let the gate judge it."),
    "forget": ("adaptd.cli.forget:forget", "Remove records and their influence, for good."),
    "predict": ("adaptd.cli.stream:predict", "Answer texts."),
    "ingest": ("adaptd.cli.ingest:ingest", "Read files into the journal."),
    "feedback": ("adaptd.cli.stream:feedback", "Give a label to an earlier event."),
    "review": ("adaptd.cli.review:review", "Label the events whose labels are expected to prevent most errors."),
    "hold": ("adaptd.cli.stream:hold", "Stop learning or adaptation; answers go on."),
    "resume": ("adaptd.cli.stream:resume", "Go on, and learn what waited."),
    "explain": ("adaptd.cli.memory:explain", "Show what answered an event, when, and why it would be answered so now."),
    "memory": ("adaptd.cli.memory:memory", "Look into what is remembered."),
    "outputs": ("adaptd.cli.outputs:outputs", "Show, pause and resume outputs."),
    "feeds": ("adaptd.cli.feeds:feeds", "Show, pause and resume feeds, and what they gave that was not taken."),
    "token": ("adaptd.cli.token:token", "Say who may do what over TCP."),
    "plugins": ("adaptd.cli.plugins:plugins", "Show, make and check plugins."),
    "config": ("adaptd.cli.config:config", "Show and check the configuration."),
    "export": ("adaptd.cli.export:export", "Write a version as a model that answers without adaptd."),
    "mlflow": ("adaptd.cli.export:mlflow", "Bring MLflow's model registry up to what is live."),
    "backup": ("adaptd.cli.backup:backup", "Write the whole store into one file, verified."),
    "restore": ("adaptd.cli.backup:restore", "Make a new store from a backup."),
    "doctor": ("adaptd.cli.doctor:doctor", "Check a store, running or stopped, and its machine."),
    "verify": ("adaptd.cli.verify:verify", "Prove that the journal is what was written."),
    "install-service": ("adaptd.cli.service:install_service",
                         "Make adaptd a service of systemd: unit, user, folders, a first configuration."),
    "db": ("adaptd.cli.db:db", "Look after the store's schema, and where it is."),
    "demo": ("adaptd.cli.demo:demo", "Show adaptd at work on a real stream, beside a nightly retraining."),
    "bench": ("adaptd.cli.bench:bench", "Measure adaptd and its rivals."),
}


def _verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if isinstance(ctx.command, LazyGroup):
        ctx.command.verbose = value


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@config_option
@click.option("-v", "--verbose", is_flag=True, callback=_verbose, expose_value=False, help="Show tracebacks of errors.")
@click.version_option(__version__, prog_name="adaptd")
def main() -> None:
    """Keep a model current with its stream, without forgetting.

    \b
    Example:
      adaptd init store && adaptd run --config store
    """
