"""Machine code of kernels: made of what numba compiles, stored, and run without numba."""
