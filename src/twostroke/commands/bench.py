"""``twostroke bench``."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from ..errors import missing as missing_extra
from ..measure import throughput as benchmark
from ..measure.crossover import summarise
from ..provenance import to_json
from ..runs.folder import writable_folder, write_file
from ..runs.settings import named
from ..show import chart
from . import options
from .terminal import complain, hush, say


def bench(
    layers: options.BenchLayers = None,
    batch_sizes: options.BatchSizes = None,
    devices: options.Devices = None,
    seconds: options.Seconds = None,
    gpu: options.SupposedGpu = None,
    threads: options.Threads = None,
    out: options.BenchOut = None,
    json: options.BenchJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure training throughput over batch sizes on every device, and the batch size from which a GPU is faster."""
    tell, to_tell = hush if json else say, complain if json else say
    try:
        config = benchmark.BenchConfig.parse(layers, batch_sizes, devices, threads, seconds, gpu)
        found, missing = benchmark.find_devices(config)
    except ConfigError as error:
        flags = {name: f"--{name.replace('_', '-')}" for name in ("layers", "batch_sizes", "devices", "threads")}
        raise named(error, {**flags, "seconds": "--seconds", "gpu": "--gpu", "device": "--devices"}) from error
    folder = writable_folder(Path(out or "runs/bench"), "--out")
    for device, reason in missing.items():
        to_tell(f"not measured: {device}: {reason}")
    tell(f"measuring {', '.join(found)}: about {config.seconds * len(found):.0f} s")
    result = summarise(benchmark.measure(config, found), missing, config.gpu)
    for line in [*chart.table(result), result["verdict"]]:
        tell(line)
    files = {"bench.json": f"{to_json(result)}\n".encode()}
    try:
        files["bench.png"] = chart.png(result)
    except ImportError as error:
        complain(f"note: {missing_extra('plot', 'bench.png', error)}")
    for name, content in files.items():
        write_file(folder / name, content, "the measurements")
    tell(f"written: {', '.join(str(folder / name) for name in files)}")
    if json:
        say(to_json(result["records"]))
