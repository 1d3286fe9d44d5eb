"""
The ``urlguard`` command.

Each command reads the configuration, calls one part of the package and prints the result.  Slow
imports are inside the commands that need them.  Exit codes: 0 done; 1 failed, or the
answer is no; 2 wrong usage or configuration; 130 interrupted by Ctrl-C.

Modules by subject: `cli.serve`, `cli.rules`, `cli.feeds`, `cli.log`, `cli.operate`, `cli.learn`,
`cli.token`.  `cli.base` has what all commands share, `cli.banner` the lines that ``serve`` prints.
"""

import click

from urlguard import __version__
from urlguard.cli import feeds, learn, log, operate, rules, serve, token
from urlguard.cli.base import Group

# In the order of the help text.
_COMMANDS = (
    *(serve.serve, serve.check_config, operate.status),
    *(rules.check, rules.block, rules.allow, rules.remove),
    *(operate.pause, operate.resume, operate.cache, operate.suspects),
    *(feeds.feed, log.compile_, log.log, log.rpz_, log.backup, log.restore),
    *(learn.train, learn.evaluate, token.token, operate.systemd, operate.completion),
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="urlguard")
def main() -> None:
    """
    UrlGuard blocks fraud sites: a DNS resolver and policy engine.

    Exit codes: 0 done; 1 failed, or the answer is no; 2 wrong usage or configuration; 130
    interrupted.
    """


for _command in _COMMANDS:
    main.add_command(_command)
