"""``predict_proba`` against onnxruntime on the exported file: host images in, host probabilities out.

    python bench/inference.py --threads 1

Blocks alternate as ABBA, ours and theirs, so that every ratio is of the same work within milliseconds. A row's ratio
is theirs / ours in seconds, with a bootstrap 95 % interval of the median; above 1 ours is faster. Beside it runs an A/A
control, ours against a second network of ours; where its interval misses 1.00, or is wide, the row is "noisy" and
claims nothing. Before any clock starts both must give the same probabilities. The last line of stdout is one JSON
document.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.duel import Row, summarise
from bench.processes import bind
from bench.timing import describe_machine, keeper
from twostroke import MLP, export_onnx, load_dataset, select_backend

LAYERS: Final = [784, 192, 10]
SIZES: Final = (1, 16, 128, 1024, 10_000)
KINDS: Final = ("uint8", "float32")
BLOCK_S: Final = 0.03
SETTLE_S: Final = 0.04
TOLERANCE: Final = 1e-5  # of a probability

Work = Callable[[], Any]


def seconds(work: Work, times: int) -> float:
    """Of one call."""
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times


def alternate(a: Work, b: Work, times: int, blocks: int) -> list[list[float]]:
    """Pairs of seconds per call, [a, b], in the order ABBA. Before each block both rest, because idle threads of the
    other side spin for a while; a tenth of its calls come before the clock."""
    pairs = []
    for block in range(blocks):
        found = {}
        for name, work in (("a", a), ("b", b)) if block % 2 == 0 else (("b", b), ("a", a)):
            time.sleep(SETTLE_S)
            seconds(work, 1 + times // 10)
            found[name] = seconds(work, times)
        pairs.append([found["a"], found["b"]])
    return pairs


def measure(row: Row, net: MLP, images: Any, blocks: int) -> None:
    """Fill the row."""
    try:
        import onnxruntime
    except ImportError:
        row.status, row.reason = "not installed", "pip install onnxruntime"
        return
    row.peer_version = onnxruntime.__version__
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = row.threads
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/net.onnx"
        export_onnx(net, path, inputs="pixels" if images.dtype == "uint8" else "scaled")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,), names = session.get_inputs(), [output.name for output in session.get_outputs()]
    wanted = [name for name in names if name == "probabilities"]
    other = copy.deepcopy(net)

    def ours() -> Any:
        return net.predict_proba(images)

    def control() -> Any:
        return other.predict_proba(images)

    def theirs() -> Any:
        return session.run(wanted, {given.name: images})[0]

    away = float(np.abs(ours() - theirs()).max())
    if away > TOLERANCE:
        row.status, row.reason = "disagrees", f"probabilities differ by {away:.1e}"
        return
    control()
    times = max(1, round(BLOCK_S / min(seconds(ours, 3) for _ in range(3))))
    row.steps = {"ours": times, "peer": times, "control": times}
    gc.collect()
    row.pairs = alternate(ours, theirs, times, blocks)
    row.control_pairs = alternate(ours, control, times, blocks)
    summarise(row)
    row.gflops = None  # it would be that of a training step


def line(row: Row) -> str:
    """The row for people."""
    head = f"{row.batch_size:7,} {row.peer_mode:8}"
    if row.ratio is None or row.interval is None or row.ours is None or row.peers is None:
        return f"{head} {row.status}: {row.reason}"
    times = f"{1e6 * row.batch_size / row.ours:10,.1f} us {1e6 * row.batch_size / row.peers:10,.1f} us"
    low, high = row.interval
    return f"{head} {times}   {row.ratio:5.2f} [{low:.2f}, {high:.2f}]  {row.status} {row.reason}".rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows, print a table and the JSON line; 1 if the two disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of both, and cores (default 1)")
    parser.add_argument("--images", nargs="+", type=int, default=list(SIZES), metavar="N", help="images of a call")
    parser.add_argument("--blocks", type=int, default=40, metavar="N", help="timed blocks of each side (default 40)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document with all raw pairs here as well")
    parser.add_argument("--no-save", action="store_true", help="do not write to bench/results/")
    arguments = parser.parse_args(argv)
    machine = describe_machine()
    cores = bind(arguments.threads)
    net = MLP(LAYERS, backend=select_backend("cpu", arguments.threads))
    pixels = load_dataset("mnist").test_images
    print(f"{'images':>7} {'given':8} {'ours':>13} {'onnxruntime':>13}   theirs / ours", flush=True)
    rows = []
    for kind in KINDS:
        images = pixels if kind == "uint8" else (pixels / 255).astype(kind)
        for n in arguments.images:
            row = Row("onnxruntime", LAYERS, n, arguments.threads, peer_mode=kind)
            measure(row, net, images[:n], arguments.blocks)
            print(line(row), flush=True)
            rows.append(row)
    document = {
        "kind": "twostroke-inference",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **machine,
        "bound_to_cores": cores,
        "rows": [asdict(row) for row in rows],
    }
    keeper(document, arguments, "inference")(document)
    short = [asdict(row) | {"pairs": len(row.pairs), "control_pairs": len(row.control_pairs)} for row in rows]
    print(json.dumps(document | {"rows": short}))
    return int(any(row.status == "disagrees" for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
