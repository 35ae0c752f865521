"""Programs that serve the batches of an Arrow IPC file from memory: pyarrow's C++ Flight server, and a plain socket.

`python serving.py flight FILE` prints `ready PORT`. A ticket, and likewise the command that GetFlightInfo takes, is a
range of batches as text: `3 10` is those from the fourth to the tenth.

`python serving.py raw FILE` sends the file's bytes, from where to where a client says in its first 16 bytes, to each
that connects: what the kernel's TCP gives without anything above it.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.ipc as ipc

RANGE = struct.Struct("<QQ")
# What one sendmsg gets: as much as a batch has.
PIECE_BYTES = 2 << 20


class Batches(flight.FlightServerBase):
    """Batches in memory; from the call on it is C++ that sends them."""

    def __init__(self, file: Path) -> None:
        super().__init__("grpc://127.0.0.1:0")
        # Read and not mapped, so that they lie in memory of the process as they do in any server that made them.
        reader = ipc.open_file(pa.OSFile(str(file)))
        self._schema = reader.schema
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]

    def get_flight_info(self, _: flight.ServerCallContext, asked: flight.FlightDescriptor) -> flight.FlightInfo:
        """One endpoint, whose ticket is the command."""
        return flight.FlightInfo(self._schema, asked, [flight.FlightEndpoint(asked.command, [])], -1, -1)

    def do_get(self, _: flight.ServerCallContext, ticket: flight.Ticket) -> flight.RecordBatchStream:
        """The range of batches."""
        begin, end = map(int, ticket.ticket.split())
        return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(self._schema, self._batches[begin:end]))


def serve_flight(file: Path) -> None:
    """Until it is killed."""
    server = Batches(file)
    print(f"ready {server.port}", flush=True)
    server.serve()


def serve_raw(file: Path) -> None:
    """Until it is killed."""
    data = memoryview(file.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"ready {listener.getsockname()[1]}", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=send_asked, args=(connection, data), daemon=True).start()


def send_asked(connection: socket.socket, data: memoryview) -> None:
    """The range of bytes that a client asks for."""
    with connection:
        asked = connection.recv(RANGE.size, socket.MSG_WAITALL)
        position, end = RANGE.unpack(asked)
        while position < end:
            position += connection.sendmsg([data[position : min(end, position + PIECE_BYTES)]])


if __name__ == "__main__":
    {"flight": serve_flight, "raw": serve_raw}[sys.argv[1]](Path(sys.argv[2]))
