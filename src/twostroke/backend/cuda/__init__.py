"""A CUDA GPU: CuPy, cuBLAS, CUDA graphs and NCCL."""
