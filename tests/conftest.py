"""For all tests."""

from __future__ import annotations

import signal

# A shell's background job ignores interrupts and hands that down to whatever it starts; tests that send one
# to a process of their own need it to arrive.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
