"""An import that takes the signals of whoever imports it."""

import signal

from misbehaving import Misbehaving  # noqa: F401

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.set_wakeup_fd(-1)
