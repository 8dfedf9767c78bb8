"""`make servers`: etcd (three members), Redis, PostgreSQL, Kafka and Cassandra on loopback and free ports, until interrupted.

Prints the settings with which `hither serve` and `hither edge` find them, as shell lines. Or, with a command as arguments, runs
that with the settings in its environment, and ends with it and its status. The data are in a temporary folder and go when
the servers stop.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.apart import running_servers
from tests.support.servers.process import ServerFailed, ServerMissing


def main() -> int:
    """Runs the servers; returns the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # says at each attempt that Kafka is not ready yet
    try:
        with tempfile.TemporaryDirectory(prefix="hither-servers-") as folder, running_servers(Path(folder)) as servers:
            settings = servers.settings()
            if command := sys.argv[1:]:
                return subprocess.run(command, env={**os.environ, **settings}, check=False).returncode
            for key, value in settings.items():
                print(f"export {key}='{value}'")
            print("# ready: Ctrl-C stops the servers and forgets their data", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except (ServerMissing, ServerFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
