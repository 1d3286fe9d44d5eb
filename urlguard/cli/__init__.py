"""
The ``urlguard`` command.

Each command reads the configuration, calls one part and prints what came of it; whatever takes long
to import is imported by the command that needs it.  Exit codes: 0 done; 1 it could not be done, or
the answer is no; 2 the call or the configuration is wrong.

The commands stand in rooms by what they are about: `cli.serve`, `cli.rules`, `cli.feeds`,
`cli.log`, `cli.operate`, `cli.learn`, `cli.token`; what all need is in `cli.base`.
"""

import click

from urlguard import __version__
from urlguard.cli import feeds, learn, log, operate, rules, serve, token
from urlguard.cli.base import Group

# In the order in which people meet them.
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
    """UrlGuard keeps people away from fraud sites: a DNS resolver with a policy."""


for _command in _COMMANDS:
    main.add_command(_command)
