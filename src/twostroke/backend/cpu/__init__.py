"""The CPU: NumPy, and a C library for products and captured steps, or SciPy's BLAS without it."""
