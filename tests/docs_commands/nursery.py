"""A process that has imported what takes seconds, and forks for each command: `python -m docs_commands.nursery SOCKET`.

A command says on the socket what it is: JSON with its words, folder and environment, and its three open files. Its
exit code is the answer. It ends, and its commands with it, when what started it does: its standard input is closed
then, however that came. Knows no command.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from docs_commands.programs import main

SLOW = (
    "prefixrack.cli.app",
    "prefixrack_adapters.commands.evaluate",
    "prefixrack_adapters.commands.import_bundle",
    "prefixrack_adapters.commands.train",
    "prefixrack_adapters.evaluation",
    "prefixrack_adapters.training.run",
    "prefixrack_adapters.training.trainer",
    "prefixrack_server.engine",
)
MAX_REQUEST_BYTES = 1 << 18
STREAMS = (0, 1, 2)
PARENT = 0  # says nothing: there is only an end to read


def attend(listener: socket.socket) -> None:
    """Does not return, but in a process that was forked for a command."""
    while True:
        ready, _, _ = select.select([listener.fileno(), PARENT], [], [])
        if PARENT in ready:
            os.killpg(0, signal.SIGKILL)
        connection, _ = listener.accept()
        with connection:
            if os.fork() == 0:
                listener.close()
                if _is_the_command(connection):
                    return


def _is_the_command(connection: socket.socket) -> bool:
    """Once more two processes: one becomes the command, the other waits for it and says how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, len(STREAMS))
    command = os.fork()
    if command != 0:
        _, status = os.waitpid(command, 0)
        connection.sendall(str(abs(os.waitstatus_to_exitcode(status))).encode())
        os._exit(0)
    for stream, file in zip(STREAMS, files, strict=True):
        os.dup2(file, stream)
    request = json.loads(message)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # not ignored, even where the tests themselves run in the background
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["docs_commands", *request["words"]]
    return True


def exit_code(command: Callable[[], None]) -> int:
    """What the interpreter would end with; it itself would take seconds to forget all that was imported."""
    try:
        command()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  (the interpreter, too, shows any, and ends with 1)
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    for name in SLOW:
        import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    with socket.socket(socket.AF_UNIX) as listener:
        draft = Path(f"{sys.argv[1]}.draft")
        listener.bind(str(draft))
        listener.listen()
        draft.rename(sys.argv[1])  # whoever finds it can connect
        attend(listener)
    code = exit_code(main)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
