"""Entry point of `mdt`, `python -m mdt_cli`, and `torchrun` or `accelerate launch -m mdt_cli`."""

import sys


def main() -> None:
    """Run the command of this process's arguments and exit with its code."""
    from mdt_cli.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
