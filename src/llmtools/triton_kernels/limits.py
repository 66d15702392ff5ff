"""What kernels hold of one vector, row or head; free of triton, which takes long to import."""

from __future__ import annotations

import torch

# A vector of a norm is one block of one program; the backward holds five of them, and spills beyond
# this.
LARGEST_NORM = 32768
LARGEST_NORM_BACKWARD = 8192
# A row that is quantized is one block of one program.
LARGEST_ROW = 32768
# A head of attention is one side of a tile; in fp32 the backward spills beyond the second.
LARGEST_HEAD = 256
LARGEST_HEAD_FLOAT32 = 128
# The largest code of each dtype that rows are quantized to.
LARGEST_CODE = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
# A program looks for its expert among all of them at once.
LARGEST_EXPERTS = 1024
# A channel's state is one side of a block of the scan.
LARGEST_STATE = 256
