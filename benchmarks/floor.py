"""The least time that a workload can take on a machine, from bytes, operations and measured rates.

    floor = prefill + decode

    prefill [s] = (2 · body · prompt + 2 · head · requests + attention) / matmul rate
        body        parameters of the layers' matrices that a token meets (of the experts, those
                    that it chooses), the embedding and the output head left out
        head        parameters of the output head; a prompt needs it at its last token only
        prompt      prompt tokens that must be computed: a shared prefix counts once
        attention   operations per byte of keys and values · bytes of them per token · pairs, for
                    the layers that see all tokens and for those of each window. A prompt of n
                    tokens has n²/2 pairs of query and key, nw - w²/2 in a window of w < n. Behind
                    a shared prefix those of the prefix count once

    decode [s] = sum over the steps of an ideal schedule of max(
            (weight bytes + memory bytes) / memory bandwidth,
            2 · (body + head) · rows / matmul rate)
        weight bytes  of the matrices outside the experts, and of the experts that the rows choose:
                    with k chosen of E at random, 1 - (1 - k / E)^rows of all
        memory bytes  the keys and values that a row sees, and its states, read and written

An answer of m tokens takes m - 1 steps: its first token comes out of the prefill. The ideal
schedule has every prompt computed before it begins, and gives a free place to the request with the
longest answer left; no step computes a row that is not alive. A row reads the keys and values of
all its tokens, of a shared prefix, too.

The floor at shapes takes for the matrices of a step not bytes and the rate of large matmuls, but
the time that the model's matmuls alone took at that many rows (between measured widths: linear):

    decode at shapes [s] = sum over the steps of
            matmul seconds(rows) + memory bytes / memory bandwidth

Left out of both: activations, norms, softmax, convolutions and the recurrence of states in prefill,
sampling, everything the host does.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.workloads import TokenRequest
from vllm_mlx.batching.slots.layout import Footprint


@dataclass(frozen=True)
class Costs:
    """What a model costs to compute.

    Attributes:
        body_parameters: elements of the layers' matrices that a token meets (as if not quantized).
        head_parameters: elements of the output head.
        weight_bytes: read for one step, as stored: the layers' matrices and the head, but for
            experts.
        expert_bytes: all experts, as stored.
        chosen: the share of the experts that one token chooses.
        footprint: what the memories of a sequence take.
        operations_per_kv_byte: of attention, for a query and a key.
    """

    body_parameters: int
    head_parameters: int
    weight_bytes: int
    footprint: Footprint
    operations_per_kv_byte: float
    expert_bytes: int = 0
    chosen: float = 1.0

    def weights_read(self, rows: int) -> float:
        """Bytes of weights that a step of so many rows reads."""
        return self.weight_bytes + self.expert_bytes * (1 - (1 - self.chosen) ** rows)

    def held(self, tokens: int) -> int:
        """Bytes that a sequence of so many tokens remembers."""
        footprint = self.footprint
        windows = sum(min(tokens, window) * nbytes for window, nbytes in footprint.windows)
        return tokens * footprint.per_token + windows + footprint.state

    def moved(self, tokens: int) -> int:
        """Bytes of memories that a row with so many tokens reads and writes in a step."""
        return self.held(tokens) + self.footprint.state

    def attention(self, tokens: int) -> float:
        """Operations of attention over a prompt of so many tokens."""
        footprint = self.footprint
        bytes_of_pairs = footprint.per_token * tokens**2 / 2
        for window, nbytes in footprint.windows:
            seen = min(tokens, window)
            bytes_of_pairs += nbytes * (tokens * seen - seen**2 / 2)
        return self.operations_per_kv_byte * bytes_of_pairs


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second, measured.

    Attributes:
        matmul: operations per second at the prefill's shapes.
        bandwidth: bytes of memory per second.
        step_seconds: width → seconds of the model's matmuls alone in a decode step; may be empty.
    """

    matmul: float
    bandwidth: float
    step_seconds: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A decode step: rows alive, and what they move of their memories."""

    rows: int
    moved: int


@dataclass(frozen=True)
class Floor:
    """Seconds; `decode_at_shapes` is None where no widths were measured."""

    prefill: float
    decode: float
    decode_at_shapes: float | None
    steps: int

    @property
    def seconds(self) -> float:
        return self.prefill + self.decode

    @property
    def seconds_at_shapes(self) -> float | None:
        return None if self.decode_at_shapes is None else self.prefill + self.decode_at_shapes


def floor(costs: Costs, rates: Rates, requests: Sequence[TokenRequest], max_num_seqs: int) -> Floor:
    """The floor of a workload with at most `max_num_seqs` rows side by side."""
    steps = ideal_schedule(requests, max_num_seqs, costs.moved)
    return Floor(
        prefill=prefill_operations(costs, requests) / rates.matmul,
        decode=sum(_step_seconds(costs, rates, step) for step in steps),
        decode_at_shapes=sum(_step_seconds_at_shapes(rates, step) for step in steps)
        if rates.step_seconds
        else None,
        steps=len(steps),
    )


def prefill_operations(costs: Costs, requests: Sequence[TokenRequest]) -> float:
    """Additions and multiplications that the prompts need."""
    prefix = max((request.shared_tokens for request in requests), default=0)
    tokens, attention = prefix, costs.attention(prefix)
    for request in requests:
        prompt, shared = len(request.prompt_tokens), request.shared_tokens
        tokens += prompt - shared
        attention += costs.attention(prompt) - costs.attention(shared)
    matrices = costs.body_parameters * tokens + costs.head_parameters * len(requests)
    return 2 * matrices + attention


def ideal_schedule(
    requests: Sequence[TokenRequest], max_num_seqs: int, moved: Callable[[int], int]
) -> list[Step]:
    """The steps of longest-first packing into `max_num_seqs` places.

    Args:
        moved: bytes that a row of so many tokens moves. In its step j (from 1), one with a prompt
            of n tokens has n + j.
    """
    longest_first = sorted(requests, key=lambda request: -request.max_tokens)
    free_at = [0] * max_num_seqs
    rows: list[int] = []
    bytes_moved: list[int] = []
    for request in longest_first:
        start = heapq.heappop(free_at)
        end = start + request.max_tokens - 1
        heapq.heappush(free_at, end)
        missing = end - len(rows)
        rows += [0] * missing
        bytes_moved += [0] * missing
        for at in range(start, end):
            rows[at] += 1
            bytes_moved[at] += moved(len(request.prompt_tokens) + at - start + 1)
    return [Step(*step) for step in zip(rows, bytes_moved, strict=True)]


def interpolate(points: Mapping[int, float], at: int) -> float:
    """Linear between the points; before the first the first, after the last in proportion."""
    known = sorted(points)
    right = bisect_left(known, at)
    if right == 0:
        return points[known[0]]
    if right == len(known):
        return points[known[-1]] * at / known[-1]
    before, after = known[right - 1], known[right]
    share = (at - before) / (after - before)
    return points[before] + share * (points[after] - points[before])


def _step_seconds(costs: Costs, rates: Rates, step: Step) -> float:
    moved = costs.weights_read(step.rows) + step.moved
    operations = 2 * (costs.body_parameters + costs.head_parameters) * step.rows
    return max(moved / rates.bandwidth, operations / rates.matmul)


def _step_seconds_at_shapes(rates: Rates, step: Step) -> float:
    return interpolate(rates.step_seconds, step.rows) + step.moved / rates.bandwidth
