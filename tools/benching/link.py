"""A link between clients and a server on loopback: a round trip that takes time, and a rate that all share.

It stands in for a network where the kernel has no netem. A process of its own relays connections: what it takes from
one side leaves at the link's rate, whatever connection it belongs to, and arrives half a round trip later. Each
direction has the whole rate. A new connection costs a round trip before what the client sends goes off, as a
handshake does; slow start, losses and the headers of packets are not played. Connections that have something to send
take turns. What the link cannot take yet waits in the sender's socket, not in a queue that others would wait behind.

On a machine with other work for each of its two cores, curl got 550 MiB/s through a link without a rate, 117 MiB/s of
the 119.2 of 1 Gbit/s, and 256 KiB in 22.7 ms of the 22.1 that it takes at 20 ms. That needs root: as a process
like any other it is late by milliseconds when there is other work.

    python -m tools.benching.link --to PORT --rtt 0.02 --rate 125000000

prints `listening on PORT`, answers each line on standard input with a line of counts, and ends at its end.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field

PIECE = 64 << 10
"""Bytes that one connection sends in its turn; at 1 Gbit/s they take half a millisecond."""

COMMANDS = 0
"""Standard input."""

REQUEST = b" HTTP/1.1\r\n"
"""What the first line of a request ends with; clients send a request in one piece."""

AHEAD = 0.005
"""Seconds of sending that the link takes on at once, so that it is never idle when this process is late."""

WINDOW = 6 << 20
"""Bytes of one connection under way; Linux's own bound for a receiver."""


@dataclass
class Way:
    """One direction of the link, with all connections in it; `free` is when it has sent all that it took on."""

    rate: float
    delay: float
    free: float = 0.0
    sent: int = 0
    requests: int = 0

    def take(self, now: float, size: int) -> float:
        """Take on so many bytes and return when the last of them arrives."""
        self.sent += size
        self.free = max(self.free, now) + (size / self.rate if self.rate else 0.0)
        return self.free + self.delay

    def room_at(self) -> float:
        """Return when it takes on more."""
        return self.free - AHEAD


@dataclass(eq=False)
class Stream:
    """What one side of a connection sends to the other; nothing leaves before `opens`. The client's side asks."""

    way: Way
    source: socket.socket
    target: socket.socket
    opens: float = 0.0
    asks: bool = False
    under_way: deque[tuple[float, bytes]] = field(default_factory=deque)
    size: int = 0
    ended: bool = False
    blocked: bool = False

    def wants_to_read(self) -> bool:
        """Say whether the source may send more."""
        return not self.ended and self.size < WINDOW

    def take(self, now: float) -> float | None:
        """Take a piece from the source; return when it arrives, None when there was none after all."""
        try:
            piece = self.source.recv(PIECE)
        except BlockingIOError:
            return None
        except OSError:
            piece = b""
        self.ended = not piece
        if self.asks:
            self.way.requests += piece.count(REQUEST)
        due = max(self.way.take(now, len(piece)), self.opens + self.way.delay)
        self.under_way.append((due, piece))
        self.size += len(piece)
        return due

    def deliver(self, now: float) -> None:
        """Give the target what has arrived."""
        self.blocked = False
        while self.under_way and self.under_way[0][0] <= now:
            due, piece = self.under_way.popleft()
            try:
                if not piece:
                    self.target.shutdown(socket.SHUT_WR)
                sent = self.target.send(piece) if piece else 0
            except BlockingIOError:
                sent = 0
            except OSError:
                self._break()
                return
            self.size -= sent
            if sent < len(piece):
                self.under_way.appendleft((due, piece[sent:]))
                self.blocked = True
                return

    def over(self) -> bool:
        """Say whether all has been sent and delivered."""
        return self.ended and not self.under_way

    def _break(self) -> None:
        """The target is gone: tell the source, as a reset would."""
        self.under_way.clear()
        self.size, self.ended = 0, True
        with contextlib.suppress(OSError):
            self.source.shutdown(socket.SHUT_RDWR)


class Link:
    """The listening end, and every connection across."""

    def __init__(self, port: int, rtt: float, rate: float) -> None:
        self._port, self._rtt = port, rtt
        self._up, self._down = Way(rate, rtt / 2), Way(rate, rtt / 2)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self._listener.setblocking(False)
        self._streams: dict[socket.socket, Stream] = {}
        self._due: list[tuple[float, int, Stream]] = []
        self._taken = 0
        self.connections = 0
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Relay until standard input ends."""
        while True:
            now = time.monotonic()
            self._deliver(now)
            sources: list[int | socket.socket] = [COMMANDS, self._listener]
            sources += [s.source for s in self._streams.values() if s.wants_to_read() and s.way.room_at() <= now]
            blocked = [s.target for s in self._streams.values() if s.blocked]
            readable, writable, _ = select.select(sources, blocked, [], self._pause(now))
            if COMMANDS in readable:
                if not os.read(COMMANDS, 4096):
                    return
                print(json.dumps(self.counts()), flush=True)
            if self._listener in readable:
                self._accept()
            for sock in writable:
                self._other(sock).deliver(time.monotonic())
            self._take([sock for sock in readable if isinstance(sock, socket.socket) and sock in self._streams])
            self._forget()

    def counts(self) -> dict[str, int]:
        """Return how many connections and requests there were, and the bytes in each direction."""
        return {
            "connections": self.connections,
            "requests": self._up.requests,
            "up": self._up.sent,
            "down": self._down.sent,
        }

    def _pause(self, now: float) -> float | None:
        """Return for how long nothing happens by itself."""
        events = [self._due[0][0]] if self._due else []
        events += [way.room_at() for way in (self._up, self._down) if way.room_at() > now]
        return max(0.0, min(events) - now) if events else None

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # the server is not to run far ahead
        try:
            server.connect(("127.0.0.1", self._port))
        except OSError:
            client.close()
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._streams[client] = Stream(self._up, client, server, opens=time.monotonic() + self._rtt, asks=True)
        self._streams[server] = Stream(self._down, server, client)
        self.connections += 1

    def _take(self, readable: list[socket.socket]) -> None:
        """Let each that has something send a piece; another one is first the next time."""
        turn = self._taken % len(readable) if readable else 0
        for sock in readable[turn:] + readable[:turn]:
            stream, now = self._streams[sock], time.monotonic()
            due = stream.take(now) if stream.wants_to_read() else None
            if due is not None:
                self._taken += 1
                heapq.heappush(self._due, (due, self._taken, stream))

    def _deliver(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            stream = heapq.heappop(self._due)[2]
            if not stream.blocked:
                stream.deliver(now)

    def _other(self, sock: socket.socket) -> Stream:
        """Return the stream that a socket is the target of."""
        return self._streams[self._streams[sock].target]

    def _forget(self) -> None:
        """Close connections that are over in both directions."""
        for sock in [sock for sock, stream in self._streams.items() if stream.over()]:
            stream = self._streams.get(sock)
            if stream is not None and self._streams[stream.target].over():
                for end in (sock, stream.target):
                    del self._streams[end]
                    end.close()


def main() -> None:
    """Relay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=int, required=True, help="the server's port on loopback")
    parser.add_argument("--rtt", type=float, required=True, help="seconds of a round trip")
    parser.add_argument("--rate", type=float, required=True, help="bytes a second, 0 for no bound")
    options = parser.parse_args()
    with contextlib.suppress(OSError):  # as root: a link is not slowed down by those who use it
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    link = Link(options.to, options.rtt, options.rate)
    print(f"listening on {link.port}", flush=True)
    link.run()


if __name__ == "__main__":
    main()
