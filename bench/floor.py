"""The floor of a fan-out: a bare loop of socket writes, in a process of its own.

`python -m bench.floor CONNECTIONS BYTES ROUNDS CPU` prints its port, waits for the connections, prints "ready", and at a line on
standard input writes to each socket in turn, a round each 5 ms so that the readers keep up. Prints its CPU time for each write in
microseconds, the pauses not counted.
"""

import os
import socket
import sys
import time

_PAUSE_S = 0.005


def main() -> None:
    """See the module."""
    connections, size, rounds, cpu = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {cpu})
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    sockets = []
    for _ in range(connections):
        accepted, _address = listener.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.append(accepted)
    print("ready", flush=True)
    sys.stdin.readline()
    frame = b"x" * size
    used_s = 0.0
    for _ in range(rounds):
        begun_s = time.process_time()
        for one in sockets:
            one.send(frame)
        used_s += time.process_time() - begun_s
        time.sleep(_PAUSE_S)
    print(used_s / (rounds * connections) * 1e6, flush=True)


if __name__ == "__main__":
    main()
