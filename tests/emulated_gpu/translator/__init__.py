"""PTX as C: each kernel becomes one function that a thread runs, with a goto for each branch.

``python -m tests.emulated_gpu.translator FILE.ptx FILE.so`` translates and compiles with gcc. An instruction that is
not known ends the translation with exit code 1 and its name. Needs Python alone: the emulated driver starts it without
site-packages.
"""
