"""The kernel's doors: one thin wrapper a system call, and the few protocols that sit right on top of them.

Everything here raises ``OSError`` whose ``filename`` names the call and what it was made on, and knows nothing of
containers.
"""

import sys

from pytest_capsule.errors import UnsupportedHost

if sys.platform != "linux":
    raise UnsupportedHost(
        f"containers need Linux, and this is {sys.platform}",
        hint="run these tests in a Linux machine, or set capsule_unsupported = skip",
    )
