"""``python -m urlguard`` is the ``urlguard`` command."""

from urlguard.cli import main

if __name__ == "__main__":
    main(prog_name="urlguard")
