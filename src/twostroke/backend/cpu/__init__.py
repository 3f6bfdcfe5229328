"""The CPU: NumPy, SciPy's BLAS, and a C library for small matrices and captured steps."""
