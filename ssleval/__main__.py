"""``python -m ssleval``."""

from ssleval.cli import main

if __name__ == "__main__":
    main()
