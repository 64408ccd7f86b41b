"""Click groups that import a command when it is asked for, and the one place where errors become exit codes."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from adaptd.cli.show import say
from adaptd.errors import AdaptdError

Lazy = Mapping[str, tuple[str, str]]  # name -> ("module:attribute", short help)
INTERRUPTED = 130


class LazyGroup(click.Group):
    """The top of the command line: `--help` reads a table, a command is imported when it runs."""

    def __init__(self, *args: Any, lazy: Lazy, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy
        self.verbose = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context,
                        args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when there is none of that name."""
        if args[0] not in self.lazy and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.lazy, 1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run and exit: what a command returns is its exit code, an error's class knows its own."""
        kwargs["standalone_mode"], self.verbose = False, False
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
            code = self._exit_code(lambda: super(LazyGroup, self).main(*args, **kwargs))
        sys.exit(code)

    def _exit_code(self, run: Callable[[], Any]) -> int:
        try:
            code = run()
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            say("interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit has somewhere to go
            return 1
        except (AdaptdError, OSError) as error:
            self._report(error)
            return error.exit_code if isinstance(error, AdaptdError) else 1

    def _report(self, error: AdaptdError | OSError) -> None:
        if self.verbose:
            traceback.print_exception(error)
        say(f"error: {error}")
        if isinstance(error, AdaptdError) and error.hint:
            say(f"hint: {error.hint}")


class NounGroup(click.Group):
    """A group whose first verb runs when none is given: `adaptd feeds` is `adaptd feeds list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the first verb in front of options that come without one."""
        if not (_asks_help(ctx, args) or any(argument in self.commands for argument in args)):
            if not args or args[0].startswith("-"):
                args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order they were made, the one that is implied first."""
        return list(self.commands)


def _asks_help(ctx: click.Context, args: Sequence[str]) -> bool:
    return bool(set(ctx.help_option_names) & set(args))
