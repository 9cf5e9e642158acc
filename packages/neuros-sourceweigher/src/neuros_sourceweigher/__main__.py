"""`python -m neuros_sourceweigher`."""

import sys

from neuros_sourceweigher.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
