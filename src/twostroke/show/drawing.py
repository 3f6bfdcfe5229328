"""The page to draw a digit on: the browser sends a drawing and gets the network's input image and outputs.

``DrawingPage`` is a WSGI application for the local browser only: it answers requests to its own address, accepts
drawings of one exact size, and opens no file. waitress (the extra ``draw``) serves it over HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..data.bundled import FIELD
from ..data.digit_image import prepare_grey
from ..engine.layers import parameter_count
from ..engine.metrics import check_finite
from ..engine.mlp import MLP
from ..errors import ConfigError, ModelError, TwoStrokeError
from ..provenance import to_json

PAGE: Final = Path(__file__).with_name("drawing.html")
HOST: Final = "127.0.0.1"
SIDE: Final = 280  # side of a drawing in pixels; a byte of ink each
MOST_CLASSES: Final = 100  # bars that fit on the page
MOST_HEADERS: Final = 16 << 10
MOST_CONNECTIONS: Final = 500
IDLE_S: Final = 10  # a connection that says nothing for so long is closed: half-open ones do not stop the page
OUTPUTS: Final = ("softmax", "sigmoid")
HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


class Refusal(Exception):
    """A refused request: the status line and the reason."""

    def __init__(self, status: str, why: str, *headers: tuple[str, str]) -> None:
        super().__init__(why)
        self.status, self.headers = status, headers


class DrawingPage:
    """The application on ``port``: the page at /, the network's description at /network, predictions at /read.

    ``classes`` are the names of the outputs. Raises ``ModelError`` if ``net``, from the file ``model``, does not
    classify images of 28 x 28.
    """

    def __init__(self, net: MLP, classes: Sequence[str], port: int, model: Path) -> None:
        check_reads_drawings(net, model)
        self.net = net
        names = [f"{host}:{port}" for host in (HOST, "localhost")] + [HOST, "localhost"] * (port == 80)
        self.hosts = frozenset(names)
        self.origins = frozenset(f"http://{name}" for name in names)
        self.page = PAGE.read_bytes()
        self.policy = ("Content-Security-Policy", _policy(self.page.decode()))
        self.facts = {
            "network": "-".join(map(str, net.layers)),
            "parameters": parameter_count(net.layers),
            "output": net.output,
            "classes": list(classes),
            "model": str(model),
            "side": SIDE,
        }
        self.answers: dict[str, tuple[str, Callable[[dict[str, Any]], tuple[str, bytes]]]] = {
            "/": ("GET", lambda _: ("text/html; charset=utf-8", self.page)),
            "/network": ("GET", lambda _: _json(self.facts)),
            "/read": ("POST", self._read),
        }

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        status = "200 OK"
        extra: tuple[tuple[str, str], ...] = ()
        try:
            self._check_sender(environ)
            kind, body = self._answer(environ)
        except Refusal as refusal:
            status, extra = refusal.status, refusal.headers
            kind, body = _json({"error": str(refusal)})
        except TwoStrokeError as error:
            status = "422 Unprocessable Content"
            kind, body = _json({"error": str(error)})
        except Exception as error:  # or the server would print a traceback
            status = "500 Internal Server Error"
            kind, body = _json({"error": f"unexpected {type(error).__name__}: {error}"})
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), self.policy, *HEADERS, *extra]
        start_response(status, headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _check_sender(self, environ: dict[str, Any]) -> None:
        """Refuse requests from pages of other sites, also after DNS rebinding."""
        if environ.get("HTTP_HOST", "").lower() not in self.hosts:
            raise Refusal("421 Misdirected Request", "this page answers under its own address only")
        origin = environ.get("HTTP_ORIGIN")
        # Browsers send Origin with every POST.
        if origin not in self.origins and (origin is not None or environ["REQUEST_METHOD"] == "POST"):
            raise Refusal("403 Forbidden", "only the page itself may ask")

    def _answer(self, environ: dict[str, Any]) -> tuple[str, bytes]:
        method, answer = self.answers.get(environ["PATH_INFO"], ("", None))
        if answer is None:
            raise Refusal("404 Not Found", "there is nothing here")
        allowed = ("GET", "HEAD") if method == "GET" else (method,)
        if environ["REQUEST_METHOD"] not in allowed:
            allow = ", ".join(allowed)
            raise Refusal("405 Method Not Allowed", f"this takes {allow}", ("Allow", allow))
        return answer(environ)

    def _read(self, environ: dict[str, Any]) -> tuple[str, bytes]:
        """Prepare the drawing as ``predict`` prepares a picture; return that image and the outputs."""
        if environ.get("CONTENT_TYPE") != "application/octet-stream":
            raise Refusal("415 Unsupported Media Type", "a drawing is application/octet-stream")
        expected = SIDE * SIDE
        length = environ.get("CONTENT_LENGTH") or "0"
        if not (length.isascii() and length.isdigit()) or int(length) > expected:
            raise Refusal("413 Content Too Large", f"a drawing has {expected} bytes")
        body = environ["wsgi.input"].read(expected)
        if int(length) != expected or len(body) != expected:
            raise Refusal("400 Bad Request", f"a drawing has {expected} bytes")
        image = prepare_grey(np.frombuffer(body, np.uint8).reshape(SIDE, SIDE), "drawing")
        outputs = self.net.predict_proba(image)[0]
        check_finite(self.facts["model"], outputs)
        return _json({"image": image[0], "outputs": outputs})


def check_reads_drawings(net: MLP, model: Path) -> None:
    """Raise ``ModelError`` unless the network classifies images of 28 x 28."""
    found = expected = None
    if net.layers[0] != FIELD * FIELD:
        found, expected = f"{net.layers[0]} inputs", f"{FIELD * FIELD}, for pictures of {FIELD} x {FIELD}"
    elif not 2 <= net.layers[-1] <= MOST_CLASSES:
        found, expected = f"{net.layers[-1]} outputs", f"2..{MOST_CLASSES}, one for each class"
    elif net.output not in OUTPUTS:
        found, expected = f"{net.output} outputs", f"probabilities, of {' or '.join(OUTPUTS)}"
    if found:
        remedy = "Use a model that was trained on digits: twostroke train."
        raise ModelError("the model cannot read drawings", where=model, found=found, expected=expected, remedy=remedy)


def listen(port: int) -> socket.socket:
    """Listen on 127.0.0.1, which no other machine reaches. Port 0 chooses a free one."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(
            "cannot listen",
            where="--port",
            found=f"{port}: {error.strerror}",
            expected="a free port",
            remedy="Use --port 0 for any that is free.",
        ) from error


@contextmanager
def serving(page: DrawingPage, listener: socket.socket) -> Iterator[Callable[[], None]]:
    """Yield the function that serves ``page`` until KeyboardInterrupt; leaving the block closes all connections."""
    import waitress

    # Drawing sends many requests in a row: waitress's warnings about its queue are noise.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    connections: dict[int, Any] = {}
    # One thread answers in order. The limit on bodies is below the size that waitress would write to a file.
    server = waitress.create_server(
        page,
        connections,
        sockets=[listener],
        threads=1,
        ident=None,
        connection_limit=MOST_CONNECTIONS,
        channel_timeout=IDLE_S,
        cleanup_interval=1,
        asyncore_use_poll=True,  # select knows no descriptor above 1,023
        max_request_body_size=2 * SIDE * SIDE,
        max_request_header_size=MOST_HEADERS,
    )
    try:
        yield server.run
    finally:
        server.task_dispatcher.shutdown()
        for connection in list(connections.values()):
            connection.close()


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", to_json(value).encode()


def _policy(html: str) -> str:
    """The Content-Security-Policy: the page's one script and one style sheet, by digest, and requests to itself."""
    parts = ["default-src 'none'", "connect-src 'self'", "img-src data:"]
    for element in ("script", "style"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        parts.append(f"{element}-src 'sha256-{digest}'")
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
