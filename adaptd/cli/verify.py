"""The proof of the journal's integrity, on a running daemon's store or a stopped one's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adaptd.cli import options, show
from adaptd.errors import BadPayload

if TYPE_CHECKING:
    from adaptd.verify import Result


def _noted(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, str] | None:
    from adaptd.verify import noted

    try:
        return None if value is None else noted(value)
    except BadPayload as error:
        raise click.BadParameter(f"{error.message}; give {error.hint}") from None


@click.command()
@options.config_option
@click.option("--head", metavar="ENTRY:HASH", callback=_noted, help="A head noted before: the chain must lead through it.")
@options.json_option
def verify(head: tuple[int, str] | None, as_json: bool) -> int:
    """Prove that the journal is what was written.

    Every event and label, in order, none missing, none added. Exit code 1 when it is not. Note the head that it prints
    somewhere else: with it a later --head proves that nothing up to there was rewritten or cut off, even by somebody who
    can write the store. Reads the store only, beside the daemon too.

    \b
    Example:
      adaptd verify --config store
    """
    from adaptd import db, status
    from adaptd import verify as proof

    with status.reading(options.paths().store) as store:
        db.check_known(store.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        total = store.execute("SELECT count(*) FROM chain").fetchone()[0]
        with show.progress("verify", total) as advance:
            result = proof.verify(store, advance, head)
    if as_json:
        show.data(result.body())
    else:
        _for_people(result)
    return 1 if result.breaks else 0


def _for_people(result: Result) -> None:
    head = f"{result.head.entry}:{result.head.hash.hex()}"
    if not result.breaks:
        show.line(f"the chain holds: {result.head.entry} entries, {result.forgotten} of them forgotten; head {head}")
        return
    show.table(("seq", "what", "how"), [(one.seq, one.code, one.message) for one in result.broken])
    show.say(f"the chain does not hold: {result.breaks} found, the first at seq {result.broken[0].seq}")
