"""A proxy whose first connection breaks before an answer came: what clients meet on bad networks."""
import contextlib
import select
import socket
import threading
import time
import urllib.parse


class FlakyProxy:
    """Passes bytes to and fro; the first connection is cut once `cut_when()` is true."""

    def __init__(self, url, cut_when):
        parts = urllib.parse.urlsplit(url)
        self.target, self.cut_when, self.connections = (parts.hostname, parts.port), cut_when, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *unused):
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._carry, args=(client, self.connections == 1), daemon=True).start()

    def _carry(self, client, is_cut):
        server = socket.create_connection(self.target)
        other = {client: server, server: client}
        with client, server, contextlib.suppress(OSError):
            while True:
                for ready in select.select([client, server], [], [], .05)[0]:
                    received = ready.recv(65536)
                    if not received or (is_cut and ready is server):
                        return
                    other[ready].sendall(received)
                if is_cut and self.cut_when():
                    return
