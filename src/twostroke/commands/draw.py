"""``twostroke draw``."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Callable
from typing import Final

from ..errors import ConfigError, need
from ..models.model_file import load_model
from ..models.onnx import class_names
from ..runs.own_kernel import own_kernels
from ..runs.settings import named, names_in
from ..show import drawing, text
from . import newest_unless, no_pictures, options, select
from .terminal import Stopped, say, stoppable_after_work

PORT: Final = 8028
LAST_PORT: Final = 65535


def draw(
    model: options.DrawModel = None,
    classes: options.Classes = None,
    port: options.Port = PORT,
    no_browser: options.NoBrowser = False,
    kernel: options.Kernels = None,
    debug: options.Debug = False,
) -> None:
    """Draw a digit on a page in the browser and watch the network read it. Only this machine can reach the page."""
    need("draw", "twostroke draw")
    if not 0 <= port <= LAST_PORT:
        raise ConfigError("no such port", where="--port", found=port, expected=f"0..{LAST_PORT}")
    path = newest_unless(model)
    net = load_model(path, backend=select("cpu", "1"), kernels=own_kernels(kernel))
    no_pictures(net, path)
    drawing.check_reads_drawings(net, path)
    try:
        names = class_names(names_in(classes) or list(net.classes) or None, net.layers[-1])
    except ConfigError as error:
        raise named(error, {"classes": "--classes"}) from error
    with drawing.listen(port) as listener:
        port = listener.getsockname()[1]
        page = drawing.DrawingPage(net, names or [str(k) for k in range(net.layers[-1])], port, path)
        url = f"http://{drawing.HOST}:{port}/"
        say(text.network_line(net))
        say(f"page: {url}")
        say("Ctrl-C ends it.")
        if not no_browser and _has_screen():
            # webbrowser.open blocks with some browsers.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        with drawing.serving(page, listener) as run:
            _until_stopped(run)


def _has_screen() -> bool:
    """Whether a graphical browser can open; a text browser would take over this terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def _until_stopped(run: Callable[[], None]) -> None:
    """Run until a signal, then raise ``Stopped``, as every command does."""
    seen: list[int] = []

    def end(number: int) -> None:
        seen.append(number)
        raise KeyboardInterrupt  # ends the server's loop

    with stoppable_after_work(end):
        run()
    if seen:
        raise Stopped(seen[0])
