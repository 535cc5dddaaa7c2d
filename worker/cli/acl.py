"""`mlx-batch acl`: the lines that lock a Redis to what producers, workers and monitors need."""

from __future__ import annotations

import os
import re

import click

from jobs.acl import PLACEHOLDER, Role, acl_line

_USER = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_HINT = f"""\
Put a password in place of each {PLACEHOLDER} if there is one, and send the lines to Redis with
redis-cli (ACL SAVE or CONFIG REWRITE makes them last). Then, with an administrator of your own:
ACL SETUSER default off"""


@click.command()
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
def acl(role: str | None, user: str | None, password_env: str | None) -> None:
    """Print what Redis must be told to allow producers, workers and monitors, and no more."""
    if user is not None and role is None:
        raise click.UsageError("--user names one user: say its --role, too")
    if user is not None and not _USER.fullmatch(user):
        raise click.UsageError(f"--user: {user!r} should be letters, digits and _ . @ -")
    password = _password(password_env)
    for each in [Role(role)] if role else Role:
        click.echo(acl_line(each, user or f"mlx-{each}", password))
    click.echo(_HINT, err=True)


def _password(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (password := os.environ.get(variable)):
        raise click.UsageError(f"--password-env: {variable} is not set in the environment")
    return password
