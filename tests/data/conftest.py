"""A web server on this machine, so that downloads are tested without a network."""

from __future__ import annotations

import gc
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server:
    """Files by path, and how often each was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                if self.path not in server.files:
                    self.send_error(404)
                    return
                body = server.files[self.path]
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if self.path in server.cut else body)

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def put(self, path: str, body: bytes) -> str:
        """Serve a file; gives its URL."""
        self.files[path] = body
        return self.url(path)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._http.server_port}{path}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch):
    """A server that no proxy stands in front of."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    yield running
    running.close()
    # A client leaves its socket to the garbage collector when a download fails.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder that does not exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("VAEPPL_DATA_DIR", str(folder))
    return folder


# Annotations of three cells, then two genes with a cluster number and counts.
EXPRESSION = "\n".join(
    [
        "\ttissue\tsscortex\tca1\tsscortex",
        "\tgroup #\t1\t1\t2",
        "\tage\t2\t3\t4",
        "\tlevel1class\tinterneurons\tpyramidal CA1\tinterneurons",
        "\tlevel2class\tInt10\tCA1\t(none)",
        "\t\t\t\t",
        "Tspan12\t1\t0\t3\t0",
        "Npy\t-2\t250\t0\t1",
        "",
    ]
)


@pytest.fixture
def expression():
    """Text in the layout of the mouse cortex table."""
    return EXPRESSION
