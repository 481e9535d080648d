"""`python -m gptlab`, the same as `gptlab`."""

import sys


def main() -> None:
    from gptlab.cli import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
