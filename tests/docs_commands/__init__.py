"""What the shell of the documentation's tests has for commands: the real ones.

Some run as they are (`AS_THEY_ARE`). The others are started by a file here each: on ports and in folders of the test's
own, in seconds instead of minutes, and ended where they would go on. `caller.py` has them run in a process of
`nursery.py`, which saves each one the seconds that importing torch takes; what serves is a process of its own.
What cannot be run at all is named in `unrun.py`, with the reason. A command that is in none of these, the shell does
not find.
"""

from __future__ import annotations

from typing import Final

AS_THEY_ARE: Final = ("cat", "cp", "make", "tar")  # and curl, told to fail where the server says no
STARTED: Final = ("docker", "helm", "pip", "prefixrack", "python", "serve", "tensorboard")


class WrongCommand(Exception):
    """A command of the documentation that would not work."""
