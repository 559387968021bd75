"""Connections that survive a restart of their server. The suite starts servers from the binary that SQUADRON names."""

import os
import subprocess
import tempfile
import time

import adbc_driver_flightsql.dbapi
import adbc_driver_manager
from pyarrow import flight

import suite

READY = "squadron listening on grpc://"


class Server:
    """`squadron serve` on a free port, or on the port of an earlier server."""

    def __init__(self, folder, address="127.0.0.1:0"):
        command = [os.environ["SQUADRON"], "serve", "--listen", address, "--slots", "1", "--spill-dir", folder]
        # The server ends when its standard input closes, so that no orphan outlives a killed test.
        variables = {**os.environ, "SQUADRON_EXIT_ON_STDIN_EOF": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=variables, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        line = self.process.stdout.readline()
        assert line.startswith(READY), line
        self.address = line.removeprefix(READY).strip()

    def kill(self):
        self.process.kill()
        self.process.communicate()


def retry(work, limit=60):
    """Repeats `work` while it fails, since a gRPC channel waits before it reconnects."""
    end = time.monotonic() + limit
    while True:
        try:
            return work()
        except (adbc_driver_manager.OperationalError, flight.FlightUnavailableError) as error:
            assert time.monotonic() < end, f"not within {limit} s: {error}"
            time.sleep(0.1)


def test_adbc_connection(_):
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        with adbc_driver_flightsql.dbapi.connect(f"grpc://{server.address}", autocommit=True) as connection:

            def answer():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT ? + 1", (41,))
                    return cursor.fetchone()

            assert answer() == (42,)
            cursor = connection.cursor()
            cursor.execute("SELECT ? + 1", (1,))
            server.kill()
            suite.raises(adbc_driver_manager.Error, answer, "Unavailable")
            server = Server(folder, server.address)
            assert retry(answer) == (42,)
            # The prepared statement is gone with the old server: closing it is no error, and a new one works.
            cursor.close()
            assert answer() == (42,)
        server.kill()


def test_pyarrow_client(_):
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        with flight.connect(f"grpc+tcp://{server.address}") as client:

            def actions():
                return len(list(client.list_actions()))

            before = actions()
            server.kill()
            suite.raises(flight.FlightUnavailableError, actions)
            server = Server(folder, server.address)
            assert retry(actions) == before > 0
        server.kill()


if __name__ == "__main__":
    suite.main(dict(globals()))
