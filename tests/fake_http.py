"""Servers on 127.0.0.1 that tests answer from: JSON in, JSON out, nothing logged."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answers(BaseHTTPRequestHandler):
    """What every such server does; which routes it has is its own affair."""

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def send(self, data, status=200):
        """JSON; nothing at all for None."""
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        """Nothing: what is asked is in the test."""


@contextmanager
def running(handler, port=0):
    """A server, until the end; a client that gives up is no error."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.handle_error = lambda *about: None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
