"""GPU kernels in Triton; `ops` alone imports them. Each file: shapes, kernels, launcher."""

import triton

if triton.knobs.runtime.interpret:
    from llmtools.triton_kernels.interpreter import install

    install()
