"""What a job of submitit is: a command line, and this class, pickled by value.

It names nothing of this package, so that a node needs an installed ssleval and no file of the machine that
submits.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any


class Command:
    """Runs a command line; submitit calls it.

    The process that runs the command obeys only this one: signals of a time-out or a preemption reach all
    processes of a job, and the command must not end before the job is put back into the queue.
    """

    def __call__(self, words: list[str]) -> int:
        """Run the command; return its exit code, negative if a signal killed it."""

        def obey() -> None:
            for name in ("SIGUSR1", "SIGUSR2", "SIGTERM", "SIGCONT"):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if sys.platform == "linux":
                # PR_SET_PDEATHSIG: without its parent nobody would learn how it ended.
                ctypes.CDLL(None).prctl(1, signal.SIGINT)

        self.child = subprocess.Popen(words, preexec_fn=obey)  # noqa: PLW1509
        try:
            # Not `Popen.wait`, which holds a lock that the handler of a signal would wait for.
            _, status = os.waitpid(self.child.pid, 0)
        except BaseException:
            self.stop()
            raise
        self.child.returncode = os.waitstatus_to_exitcode(status)
        return self.child.returncode

    def stop(self) -> None:
        """End the command as Ctrl-C does, at the latest after 40 seconds."""
        for number in (signal.SIGINT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(self.child.pid, number)
            for _ in range(400):
                try:
                    if os.waitpid(self.child.pid, os.WNOHANG)[0]:
                        return
                except ChildProcessError:
                    return
                time.sleep(0.1)

    def checkpoint(self, words: list[str]) -> Any:
        """Stop, and return the same command for the job that goes on; what is stored is not done again."""
        # Only where jobs run: the library is optional.
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(type(self)(), words)
