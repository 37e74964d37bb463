"""`caller.py SOCKET PROGRAM ARGUMENTS…`: has the nursery run a command here. Imports nothing that takes time."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as nursery:
    nursery.connect(sys.argv[1])
    request = {"words": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109  (no pathlib)
    socket.send_fds(nursery, [json.dumps(request).encode()], [0, 1, 2])
    sys.exit(int(nursery.recv(16) or b"1"))
