"""GPU kernels in Triton; `ops` alone imports them. Each file: shapes, kernels, launcher."""
