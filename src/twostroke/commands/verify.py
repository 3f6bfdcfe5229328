"""``twostroke verify``."""

from __future__ import annotations

from ..measure import verification
from ..provenance import to_json
from ..runs.own_kernel import own_kernel
from ..show import text
from . import options, select
from .terminal import say


def verify(
    check: options.Verification,
    device: options.Device = None,
    kernel: options.OwnKernel = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check on this machine that gradients are right, that devices agree, and that a resumed run is exact."""
    found = verification.verify(check, select(device, "1"), own_kernel(kernel, "--kernel") if kernel else None)
    for line in [to_json(found.record())] if json else [text.device_line(found.backend), *found.lines()]:
        say(line)
    found.require()
