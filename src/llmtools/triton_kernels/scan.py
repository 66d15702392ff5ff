"""The selective scan of Mamba (Gu and Dao 2023), of documents one after another, in chunks of time.

    T  tokens     C  channels     N  size of a channel's state

    a[t] = exp(delta[t] A), 0 for the first token of a document
    h[t] = a[t] h[t - 1] + delta[t] u[t] B[t]        (C, N)
    y[t] = sum over N of C[t] h[t] + D u[t]

The forward runs every chunk from nothing, passes states from chunk to chunk by what each chunk
leaves of what it began with, and runs the chunks again from the states that they begin with. The
backward goes through the chunks from the last, makes a chunk's states again from its beginning and
goes back over them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from llmtools.triton_kernels.launch import power_of_two

CHUNK = 64
BLOCK_C = 32


@triton.jit
def _token(DELTA, U, B, FIRSTS, t, rates, cols, ns, is_col, is_n, C: tl.constexpr, N: tl.constexpr):
    """a, what is added to the state, delta, u and B of a token."""
    delta = tl.load(DELTA + t * C + cols, mask=is_col, other=0.0).to(tl.float32)
    u = tl.load(U + t * C + cols, mask=is_col, other=0.0).to(tl.float32)
    b = tl.load(B + t * N + ns, mask=is_n, other=0.0).to(tl.float32)
    is_first = tl.load(FIRSTS + t) == t
    decay = tl.where(is_first, 0.0, tl.exp(delta[:, None] * rates))
    return decay, (delta * u)[:, None] * b[None, :], delta, u, b


@triton.jit
def scan_states_kernel(
    U, DELTA, A, B, FIRSTS, STATES, DECAYS, num_tokens,
    C: tl.constexpr, N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """The state at the end of a chunk that begins with none, and what it leaves of one."""
    chunk = tl.program_id(1)
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ns = tl.arange(0, BLOCK_N)
    # Tokens times channels may be more than 32 bits hold.
    zero = tl.zeros([], tl.int64)
    is_col, is_n = cols < C, ns < N
    is_there = is_col[:, None] & is_n[None, :]
    at = cols[:, None] * N + ns[None, :]
    rates = tl.load(A + at, mask=is_there, other=0.0).to(tl.float32)
    state = tl.zeros([BLOCK_C, BLOCK_N], tl.float32)
    left = tl.full([BLOCK_C, BLOCK_N], 1.0, tl.float32)
    for place in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, num_tokens)):
        t = zero + place
        decay, added, _, _, _ = _token(DELTA, U, B, FIRSTS, t, rates, cols, ns, is_col, is_n, C, N)
        state = decay * state + added
        left = decay * left
    chunk_at = (zero + chunk) * C * N + at
    tl.store(STATES + chunk_at, state, mask=is_there)
    tl.store(DECAYS + chunk_at, left, mask=is_there)


@triton.jit
def scan_pass_kernel(STATES, DECAYS, num_chunks, size, BLOCK: tl.constexpr):
    """States at the ends of chunks become those that they begin with."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_there = at < size
    state = tl.zeros([BLOCK], tl.float32)
    for _chunk in range(num_chunks):
        added = tl.load(STATES + at, mask=is_there, other=0.0)
        left = tl.load(DECAYS + at, mask=is_there, other=0.0)
        tl.store(STATES + at, state, mask=is_there)
        state = left * state + added
        at += size


@triton.jit
def scan_outputs_kernel(
    U, DELTA, A, B, CS, D, FIRSTS, STATES, OUT, num_tokens,
    C: tl.constexpr, N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """The outputs of a chunk, from the state that it begins with."""
    chunk = tl.program_id(1)
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ns = tl.arange(0, BLOCK_N)
    # Tokens times channels may be more than 32 bits hold.
    zero = tl.zeros([], tl.int64)
    is_col, is_n = cols < C, ns < N
    is_there = is_col[:, None] & is_n[None, :]
    at = cols[:, None] * N + ns[None, :]
    rates = tl.load(A + at, mask=is_there, other=0.0).to(tl.float32)
    skip = tl.load(D + cols, mask=is_col, other=0.0).to(tl.float32)
    state = tl.load(STATES + (zero + chunk) * C * N + at, mask=is_there, other=0.0)
    for place in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, num_tokens)):
        t = zero + place
        decay, added, _, u, _ = _token(DELTA, U, B, FIRSTS, t, rates, cols, ns, is_col, is_n, C, N)
        state = decay * state + added
        c = tl.load(CS + t * N + ns, mask=is_n, other=0.0).to(tl.float32)
        y = tl.sum(state * c[None, :], 1) + skip * u
        tl.store(OUT + t * C + cols, y.to(OUT.dtype.element_ty), mask=is_col)


@triton.jit
def scan_backward_kernel(
    GRAD, U, DELTA, A, B, CS, D, FIRSTS, STATES, BEFORE, DU, DDELTA, DA, DB, DC, DD, num_tokens,
    num_chunks,
    C: tl.constexpr, N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """All gradients of a block of channels; those of B and C are this block's share.

    BEFORE: the states before each token of the chunk that is at hand, of this program alone.
    """
    block = tl.program_id(0)
    cols = block * BLOCK_C + tl.arange(0, BLOCK_C)
    ns = tl.arange(0, BLOCK_N)
    # Tokens times channels may be more than 32 bits hold.
    zero = tl.zeros([], tl.int64)
    is_col, is_n = cols < C, ns < N
    is_there = is_col[:, None] & is_n[None, :]
    at = cols[:, None] * N + ns[None, :]
    rates = tl.load(A + at, mask=is_there, other=0.0).to(tl.float32)
    skip = tl.load(D + cols, mask=is_col, other=0.0).to(tl.float32)
    own = (tl.arange(0, BLOCK_C)[:, None] * BLOCK_N + ns[None, :]) + block.to(tl.int64) * (
        CHUNK * BLOCK_C * BLOCK_N
    )
    dstate = tl.zeros([BLOCK_C, BLOCK_N], tl.float32)
    drates = tl.zeros([BLOCK_C, BLOCK_N], tl.float32)
    dskip = tl.zeros([BLOCK_C], tl.float32)
    for back in range(num_chunks):
        chunk = num_chunks - 1 - back
        start = chunk * CHUNK
        count = tl.minimum(CHUNK, num_tokens - start)
        state = tl.load(STATES + (zero + chunk) * C * N + at, mask=is_there, other=0.0)
        for place in range(count):
            t = zero + start + place
            decay, added, _, _, _ = _token(
                DELTA, U, B, FIRSTS, t, rates, cols, ns, is_col, is_n, C, N
            )
            tl.store(BEFORE + own + place * (BLOCK_C * BLOCK_N), state)
            state = decay * state + added
        tl.debug_barrier()
        for turned in range(count):
            place = count - 1 - turned
            t = zero + start + place
            decay, added, delta, u, b = _token(
                DELTA, U, B, FIRSTS, t, rates, cols, ns, is_col, is_n, C, N
            )
            before = tl.load(BEFORE + own + place * (BLOCK_C * BLOCK_N))
            grad = tl.load(GRAD + t * C + cols, mask=is_col, other=0.0).to(tl.float32)
            c = tl.load(CS + t * N + ns, mask=is_n, other=0.0).to(tl.float32)
            dstate += grad[:, None] * c[None, :]
            share = (block.to(tl.int64) * num_tokens + t) * N + ns
            dc = tl.sum(tl.where(is_there, grad[:, None] * (decay * before + added), 0.0), 0)
            tl.store(DC + share, dc, mask=is_n)
            tl.store(DB + share, tl.sum(dstate * (delta * u)[:, None], 0), mask=is_n)
            of_added = tl.sum(dstate * b[None, :], 1)
            of_decay = dstate * decay * before
            du = delta * of_added + skip * grad
            ddelta = u * of_added + tl.sum(of_decay * rates, 1)
            tl.store(DU + t * C + cols, du.to(DU.dtype.element_ty), mask=is_col)
            tl.store(DDELTA + t * C + cols, ddelta.to(DDELTA.dtype.element_ty), mask=is_col)
            drates += of_decay * delta[:, None]
            dskip += grad * u
            dstate = decay * dstate
        tl.debug_barrier()
    tl.store(DA + at, drates.to(DA.dtype.element_ty), mask=is_there)
    tl.store(DD + cols, dskip.to(DD.dtype.element_ty), mask=is_col)


def _sizes(C: int, N: int, num_warps: int = 4) -> dict[str, int]:
    sizes = {"C": C, "N": N, "BLOCK_C": BLOCK_C, "BLOCK_N": power_of_two(N), "CHUNK": CHUNK}
    return sizes | {"num_warps": num_warps}


def scan_forward(
    u_TC: torch.Tensor,
    delta_TC: torch.Tensor,
    a_CN: torch.Tensor,
    b_TN: torch.Tensor,
    c_TN: torch.Tensor,
    d_C: torch.Tensor,
    firsts_T: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y (T, C) in the dtype of u, and the states that chunks begin with, (T / CHUNK, C, N) fp32.

    firsts: int32, the first token of each token's document. All are contiguous.
    """
    T, C = u_TC.shape
    N = a_CN.shape[1]
    chunks = triton.cdiv(T, CHUNK)
    out = torch.empty((T, C), dtype=u_TC.dtype, device=u_TC.device)
    states = torch.empty((chunks, C, N), dtype=torch.float32, device=u_TC.device)
    if not out.numel():
        return out, states
    decays = torch.empty_like(states)
    grid = (triton.cdiv(C, BLOCK_C), chunks)
    scan_states_kernel[grid](
        u_TC, delta_TC, a_CN, b_TN, firsts_T, states, decays, T, **_sizes(C, N)
    )
    scan_pass_kernel[(triton.cdiv(C * N, 256),)](
        states, decays, chunks, C * N, BLOCK=256, num_warps=4
    )
    scan_outputs_kernel[grid](
        u_TC, delta_TC, a_CN, b_TN, c_TN, d_C, firsts_T, states, out, T, **_sizes(C, N)
    )
    return out, states


def scan_backward(
    grad_TC: torch.Tensor,
    u_TC: torch.Tensor,
    delta_TC: torch.Tensor,
    a_CN: torch.Tensor,
    b_TN: torch.Tensor,
    c_TN: torch.Tensor,
    d_C: torch.Tensor,
    firsts_T: torch.Tensor,
    states: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Gradients of u, delta, A, B, C and D; shares of channels are added in a fixed order."""
    T, C = u_TC.shape
    N = a_CN.shape[1]
    # With four warps or eight, fp32 spills on sm_90 or sm_100.
    sizes = _sizes(C, N, num_warps=2)
    blocks = triton.cdiv(C, BLOCK_C)
    of_tokens = [torch.empty_like(x) for x in (u_TC, delta_TC)]
    of_rates, of_skip = torch.empty_like(a_CN), torch.empty_like(d_C)
    shares = [
        torch.empty((blocks, T, N), dtype=torch.float32, device=u_TC.device) for _ in range(2)
    ]
    before = torch.empty(
        (blocks, CHUNK, BLOCK_C, sizes["BLOCK_N"]), dtype=torch.float32, device=u_TC.device
    )
    scan_backward_kernel[(blocks,)](
        grad_TC, u_TC, delta_TC, a_CN, b_TN, c_TN, d_C, firsts_T, states, before, *of_tokens,
        of_rates, *shares, of_skip, T, len(states), **sizes,
    )  # fmt: skip
    of_b, of_c = (share.sum(0).to(b_TN.dtype) for share in shares)
    return *of_tokens, of_rates, of_b, of_c, of_skip
