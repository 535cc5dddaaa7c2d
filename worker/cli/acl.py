"""`mlx-batch acl`: the lines that lock a Redis to what producers, workers and monitors need."""

from __future__ import annotations

import os
import re

import click

from jobs.acl import ALL_COMMANDS, PLACEHOLDER, Role, acl_line, known_commands
from jobs.connection import connect, redacted
from worker.cli.options import url_option

_USER = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_ANY_SERVER = "Redis 7.2 or later, and Valkey"
_HINT = f"""\
These lines are for {{server}}.
Put a password in place of each {PLACEHOLDER} if there is one, and send the lines to Redis with
redis-cli (ACL SAVE or CONFIG REWRITE makes them last). Then, with an administrator of your own:
ACL SETUSER default off"""


@click.command(short_help="Print what locks a Redis to our commands.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    help="Only this one; default: a line for each of them.",
)
@click.option("--user", help="The user's name; default: mlx-ROLE.")
@click.option(
    "--password-env",
    metavar="NAME",
    help="An environment variable that holds the password, whose hash goes into the line; "
    f"without it the line says {PLACEHOLDER}.",
)
@url_option(
    "URL of a Redis, which is asked for the commands that it has; "
    f"without one the lines are for {_ANY_SERVER}."
)
def acl(role: str | None, user: str | None, password_env: str | None, url: str | None) -> None:
    """Print the ACL lines for producers, workers and monitors, with no more than each needs."""
    if user is not None and role is None:
        raise click.UsageError("--user names one user: say its --role, too")
    if user is not None and not _USER.fullmatch(user):
        raise click.UsageError(f"--user: {user!r} should be letters, digits and _ . @ -")
    password = None if password_env is None else os.environ.get(password_env)
    if password_env is not None and not password:
        raise click.UsageError(f"--password-env: {password_env} is not set in the environment")
    commands, server = ALL_COMMANDS, _ANY_SERVER
    if url:
        server = redacted(url)
        with connect(url) as connection:
            commands = known_commands(connection)
    for each in [Role(role)] if role else Role:
        click.echo(acl_line(each, user or f"mlx-{each}", password, commands=commands))
    click.echo(_HINT.format(server=server), err=True)
