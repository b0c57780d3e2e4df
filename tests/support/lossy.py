"""A TCP proxy that loses answers: the request arrives and is done, the client never hears of it."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.support.process import ServerProcess

CHUNK_BYTES = 65_536


class LossyProxy:
    """In front of a server; the next answers are lost as `lose` says, then everything passes."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._lose = 0
        self._silently = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def lose(self, count: int, *, silently: bool = False) -> None:
        """Cut the connection at the first byte of an answer, or (silently) keep it open and say nothing."""
        with self._lock:
            self._lose, self._silently = count, silently

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(("127.0.0.1", self._server.port))
                for source, sink, is_answer in ((client, upstream, False), (upstream, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, is_answer), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        mute = False  # from a lost answer on: its head and its body may arrive apart
        with contextlib.suppress(OSError):  # the other side is gone
            while data := source.recv(CHUNK_BYTES):
                if is_answer and not mute and self._takes():
                    if not self._silently:
                        break
                    mute = True
                if not mute:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _takes(self) -> bool:
        with self._lock:
            if self._lose == 0:
                return False
            self._lose -= 1
            self.lost += 1
            return True
