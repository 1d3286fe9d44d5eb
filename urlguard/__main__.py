"""
The ``urlguard`` command's first step, also of ``python -m urlguard``.

Imports take a second, in which Ctrl-C would end in a traceback.  Until they are done it ends the
process as it ends any other program.
"""

import signal


def main() -> None:
    """Run the command, once it is imported."""
    # Ignored it stays ignored: nohup and scripts that start us in the background want it so.
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from urlguard.cli import main as command

    signal.signal(signal.SIGINT, interrupted)
    command(prog_name="urlguard")


if __name__ == "__main__":
    main()
