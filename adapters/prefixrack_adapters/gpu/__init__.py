"""What inference on an NVIDIA GPU does in kernels of its own, written in Triton. Needs `triton`, which torch brings."""
