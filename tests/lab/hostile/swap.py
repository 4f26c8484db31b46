#!/usr/bin/python3
"""swap.py SECONDS PATH OTHER...: each pair's names change places, again and again (renameat2(2), RENAME_EXCHANGE)."""

import ctypes
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
seconds, *paths = sys.argv[1:]
pairs = [(paths[at].encode(), paths[at + 1].encode()) for at in range(0, len(paths), 2)]
end = time.monotonic() + float(seconds)
count = 0
while time.monotonic() < end:
    for one, other in pairs:
        # Twice: as it was at the end.
        for wait in (0.0007 * (count % 11), 0.0005 * (count % 7)):
            assert libc.renameat2(-100, one, -100, other, 2) == 0, ctypes.get_errno()
            time.sleep(wait)
    count += 1
print(count)
