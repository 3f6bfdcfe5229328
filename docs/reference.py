"""The API reference, made by pdoc from the docstrings.

    python docs/reference.py                 into build/docs
    python docs/reference.py --out FOLDER

Needs pdoc: pip install -e ".[docs]"
"""

from __future__ import annotations

import argparse
import importlib
import sys
import typing
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
# The public names first; then the rooms that people read, in the order of their floors.
MODULES: Final = (
    "twostroke",
    "twostroke.backend",
    "twostroke.engine.initializers",
    "twostroke.engine.kernels",
    "twostroke.data.dataset",
    "twostroke.engine.workspace",
    "twostroke.engine.mlp",
    "twostroke.engine.optimizers",
    "twostroke.engine.training",
    "twostroke.models.model_file",
    "twostroke.models.onnx",
    "twostroke.models.checkpoint",
    "twostroke.classic",
    "twostroke.runs.presets",
    "twostroke.measure.checks",
    "twostroke.measure.crossover",
    "twostroke.data.digit_image",
)


def write_reference(out: Path) -> list[Path]:
    """Write the pages of ``MODULES`` into the folder ``out`` and return them. pdoc warns of what it cannot resolve."""
    import pdoc

    for name in MODULES:
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
                # typing.NamedTuple keeps annotations as texts without their module: pdoc could not resolve them.
                new: Any = value.__new__
                new.__annotations__ = typing.get_type_hints(value)
    pdoc.render.configure(docformat="markdown", show_source=True, footer_text="twostroke")
    pdoc.pdoc(*MODULES, output_directory=out)
    return sorted(out.rglob("*.html"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the API reference.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs", help="the folder (default: build/docs)")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    try:
        import pdoc  # noqa: F401
    except ImportError:
        parser.error('pdoc is needed: pip install -e ".[docs]"')
    pages = write_reference(asked.out)
    print(f"{len(pages)} pages: {asked.out / 'index.html'}")
