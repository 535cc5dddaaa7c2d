"""The least time that a workload can take on a machine, from bytes, operations and measured rates.

    floor = prefill + decode

    prefill [s] = (2 · body · prompt + 2 · head · requests + attention) / matmul rate
        body        parameters of the layers' matrices, the embedding and the output head left out
        head        parameters of the output head; a prompt needs it at its last token only
        prompt      prompt tokens that must be computed: a shared prefix counts once
        attention   2 · 2 · layers · heads · head_dim · pairs: two matmuls of a multiplication and
                    an addition. A prompt of n tokens has n²/2 pairs of query and key; behind a
                    shared prefix of p tokens it has n²/2 - p²/2, and the prefix p²/2 once

    decode [s] = sum over the steps of an ideal schedule of max(
            (weight bytes + live KV tokens · KV bytes per token) / memory bandwidth,
            2 · (body + head) · rows / matmul rate)

An answer of m tokens takes m - 1 steps: its first token comes out of the prefill. The ideal
schedule has every prompt computed before it begins, and gives a free place to the request with the
longest answer left; no step computes a row that is not alive. A row reads the keys and values of
all its tokens, of a shared prefix, too.

The floor at shapes takes for the matrices of a step not bytes and the rate of large matmuls, but
the time that the model's matmuls alone took at that many rows (between measured widths: linear):

    decode at shapes [s] = sum over the steps of
            matmul seconds(rows) + live KV tokens · KV bytes per token / memory bandwidth

Left out of both: activations, norms, softmax, sampling, everything the host does.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.workloads import TokenRequest


@dataclass(frozen=True)
class Costs:
    """What a model costs to compute.

    Attributes:
        body_parameters: elements of the layers' matrices (as if not quantized).
        head_parameters: elements of the output head.
        weight_bytes: read for one step, as stored: the layers' matrices and the head.
        kv_bytes_per_token: keys and values of all layers.
        operations_per_pair: of attention, for a query and a key.
    """

    body_parameters: int
    head_parameters: int
    weight_bytes: int
    kv_bytes_per_token: int
    operations_per_pair: int


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
    """A decode step: rows alive, and tokens in the key-value caches that they read."""

    rows: int
    kv_tokens: int


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
    steps = ideal_schedule(requests, max_num_seqs)
    return Floor(
        prefill=prefill_operations(costs, requests) / rates.matmul,
        decode=sum(_step_seconds(costs, rates, step) for step in steps),
        decode_at_shapes=sum(_step_seconds_at_shapes(costs, rates, step) for step in steps)
        if rates.step_seconds
        else None,
        steps=len(steps),
    )


def prefill_operations(costs: Costs, requests: Sequence[TokenRequest]) -> float:
    """Additions and multiplications that the prompts need."""
    prefix = max((request.shared_tokens for request in requests), default=0)
    tokens: float = prefix
    pairs = prefix**2 / 2
    for request in requests:
        prompt, shared = len(request.prompt_tokens), request.shared_tokens
        tokens += prompt - shared
        pairs += (prompt**2 - shared**2) / 2
    return (
        2 * costs.body_parameters * tokens
        + 2 * costs.head_parameters * len(requests)
        + costs.operations_per_pair * pairs
    )


def ideal_schedule(requests: Sequence[TokenRequest], max_num_seqs: int) -> list[Step]:
    """The steps of longest-first packing into `max_num_seqs` places.

    In its step j (from 1), a row with a prompt of n tokens reads n + j tokens of keys and values.
    """
    longest_first = sorted(requests, key=lambda request: -request.max_tokens)
    free_at = [0] * max_num_seqs
    rows: list[int] = []
    kv_tokens: list[int] = []
    for request in longest_first:
        start = heapq.heappop(free_at)
        end = start + request.max_tokens - 1
        heapq.heappush(free_at, end)
        missing = end - len(rows)
        rows += [0] * missing
        kv_tokens += [0] * missing
        for at in range(start, end):
            rows[at] += 1
            kv_tokens[at] += len(request.prompt_tokens) + at - start + 1
    return [Step(*step) for step in zip(rows, kv_tokens, strict=True)]


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
    moved = costs.weight_bytes + step.kv_tokens * costs.kv_bytes_per_token
    operations = 2 * (costs.body_parameters + costs.head_parameters) * step.rows
    return max(moved / rates.bandwidth, operations / rates.matmul)


def _step_seconds_at_shapes(costs: Costs, rates: Rates, step: Step) -> float:
    read = step.kv_tokens * costs.kv_bytes_per_token
    return interpolate(rates.step_seconds, step.rows) + read / rates.bandwidth
