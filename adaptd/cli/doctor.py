"""What is wrong with a store and its machine, and a repair of what is safe to repair."""

from __future__ import annotations

import click

from adaptd.cli import options, show


@click.command()
@options.config_option
@click.option("--repair", is_flag=True, help="Take away orphans, stale jobs and damaged checkpoints; the daemon is stopped.")
@options.json_option
def doctor(repair: bool, as_json: bool) -> int:
    """Check a store, running or stopped, and its machine.

    Exit code 1 when something is wrong. Looks at the database, every version's files, checkpoints, jobs, orphans, disk
    space, permissions, owners, limits, the clock, the configuration, what it names, and the plugins that it allows.

    \b
    Example:
      adaptd doctor --config store
    """
    from adaptd import doctor as ward

    paths, given = options.paths(), options.given()
    running = not repair and ward.is_running(paths)
    removed, found = ward.repair(paths, given) if repair else ([], ward.examine(paths, given, running=running))
    if as_json:
        show.data({"state": "running" if running else "stopped", "findings": [one.body() for one in found],
                   "repaired": [one.body() for one in removed]})
    else:
        for one in removed:
            show.say(f"removed: {one.message}")
        show.table(("finding", "what", "cure"), [(one.code, one.message, one.hint) for one in found])
        show.say("all is well" if not found else f"{len(found)} found")
    return 1 if found else 0
