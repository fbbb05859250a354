"""Locks between processes, of the operating system: they end with the process that holds them."""

import sys

from filelock import AcquireReturnProxy, FileLock, Timeout

from ssleval.core.escape import terminal_line


def acquire(lock: FileLock, waiting: str) -> AcquireReturnProxy:
    """Take a lock, which the returned context releases; say ``waiting`` on stderr where another has it."""
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(terminal_line(f"ssleval: waiting for another process that {waiting}"), file=sys.stderr)  # noqa: T201
        return lock.acquire()
