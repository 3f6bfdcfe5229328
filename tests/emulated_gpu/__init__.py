"""An emulated CUDA device: CuPy's own wheel runs without a GPU. README.md says what that shows and what not."""
