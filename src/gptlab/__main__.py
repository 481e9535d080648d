"""`python -m gptlab`, the same as `gptlab`."""

import atexit
import gc
import sys


def main() -> None:
    from gptlab.cli import main as run

    # When the process ends, Python looks for garbage among all that torch has made, for half a second and for nothing.
    atexit.register(gc.freeze)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
