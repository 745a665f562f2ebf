"""What `tests.processes.forked_python` starts: has the server fork, and stands for that process until it ends.

It imports next to nothing. Its arguments are the server's socket, then those of a Python: -m MODULE, -c CODE or FILE.
"""

import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    request = json.dumps([os.getcwd(), dict(os.environ), sys.argv[2:]]).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    process = int.from_bytes(server.recv(8), "big")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: os.kill(process, number))
    status = int.from_bytes(server.recv(8), "big")
if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
sys.exit(os.waitstatus_to_exitcode(status))
