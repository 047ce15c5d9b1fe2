"""Which sequence owns which row of the tap's buffers, what it adds there, and how far its states are counted.

A position counts as generated when it lies behind the prompt, however it comes to be computed: after a preemption the
same positions are steered again and, below `next_position`, not summed again. A finished sequence gives its row back
and keeps its sum for a bounded while. Knows nothing about vLLM.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve.engines.steering_request import SteeringRequest

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScheduledTokens:
    """The consecutive tokens of one sequence in one step."""

    sequence_id: str
    num_prompt_tokens: int
    start: int  # position of the first
    num_tokens: int


@dataclass(slots=True)
class _Sequence:
    request: SteeringRequest
    vector: Tensor | None  # (H,), unit
    cap: tuple[float, float]
    row: int | None = None
    next_position: int = 0
    count: int = 0
    parked: Tensor | None = None  # (L, H), the sums while there is no row
    marked: dict[int, Tensor] = field(default_factory=dict)  # count -> (L, H), the sums as they were then
    is_forgotten: bool = False

    def first_position(self, num_prompt_tokens: int) -> int:
        """Position from which tokens count."""
        return num_prompt_tokens if self.request.pool_from is None else self.request.pool_from


class SequenceStates:
    """Rows, sums and counts of all sequences that steer or pool."""

    def __init__(self, bank: Tensor, caps: Tensor, max_finished: int) -> None:
        """Take the shared buffers; row 0 of `bank` and `caps` stays zero.

        Args:
            bank: (rows, H) unit vectors.
            caps: (rows, 2) lengths of the added vector, absolute and relative to the residual norm.
            max_finished: finished sequences whose sums are kept.
        """
        self._bank, self._caps = bank, caps
        self._sums: list[Tensor] = []  # L of (rows, H)
        self._free_rows = list(range(len(bank) - 1, 0, -1))
        self._live: dict[str, _Sequence] = {}
        self._finished: OrderedDict[str, tuple[int, Tensor, dict[int, Tensor]]] = OrderedDict()
        self._max_finished = max_finished
        self._assigned: IntArray | None = None  # the last rows
        self._has_given_row = False  # since then

    def pool_into(self, sums: Sequence[Tensor], max_finished: int) -> None:
        """Set the buffers of the layers that are read.

        Raises:
            ValueError: the layers change while sequences are in flight.
        """
        if self._live and [s.data_ptr() for s in sums] != [s.data_ptr() for s in self._sums]:
            raise ValueError(f"{len(self._live)} sequences are in flight; drain them before the layers change.")
        if [s.data_ptr() for s in sums] != [s.data_ptr() for s in self._sums]:
            self._finished.clear()
        self._sums, self._max_finished = list(sums), max_finished
        self._shrink()

    @property
    def num_live(self) -> int:
        """Sequences in flight that steer or pool."""
        return len(self._live)

    @property
    def num_finished(self) -> int:
        """Finished sequences whose sums are still kept."""
        return len(self._finished)

    @property
    def num_rows_used(self) -> int:
        """Rows owned by a sequence."""
        return len(self._bank) - 1 - len(self._free_rows)

    def __contains__(self, sequence_id: object) -> bool:
        return sequence_id in self._live

    def start(self, sequence_id: str, request: SteeringRequest, vector: Tensor | None, max_dose: float) -> None:
        """Begin a sequence. The vector (H,) stays its own until it ends, whatever the configuration becomes.

        Raises:
            ValueError: a sequence of that id is in flight.
        """
        if sequence_id in self._live:
            raise ValueError(f"A sequence with the id {sequence_id} is in flight; give every request its own id.")
        length = 0.0 if vector is None else float(vector.norm())
        if vector is None or length == 0 or not request.is_steered:
            self._live[sequence_id] = _Sequence(request, None, (0.0, 0.0))
        elif request.dose is None:
            self._live[sequence_id] = _Sequence(request, vector / length, (length, max_dose))
        else:
            dose = min(request.dose, max_dose)
            self._live[sequence_id] = _Sequence(request, vector / length, (float("inf"), dose))

    def finish(self, sequence_id: str) -> None:
        """End a sequence; its sum stays readable unless it was freed before."""
        sequence = self._live.pop(sequence_id, None)
        if sequence is None:
            return
        if sequence.request.pool and not sequence.is_forgotten:
            self._finished[sequence_id] = (sequence.count, self._sum_of(sequence), sequence.marked)
            self._shrink()
        self._release_row(sequence)

    def forget(self, sequence_ids: Iterable[str]) -> None:
        """Drop the sums of sequences, finished or in flight; steering goes on."""
        for sequence_id in sequence_ids:
            self._finished.pop(sequence_id, None)
            if sequence_id in self._live:
                self._live[sequence_id].is_forgotten = True

    def read(self, sequence_ids: Sequence[str], mark: int | None = None) -> tuple[list[str], list[int], Tensor]:
        """Return the ids that are known, the number of states behind each mean, and the means (N, L, H).

        With `mark`, a sequence that asked for it is read as it was at that count. A mean of no states is zero.
        """
        ids, counts, sums = [], [], []
        for sequence_id in sequence_ids:
            sequence = self._live.get(sequence_id)
            if sequence is not None and sequence.request.pool and not sequence.is_forgotten:
                count, total, marked = sequence.count, self._sum_of(sequence), sequence.marked
            elif sequence_id in self._finished:
                count, total, marked = self._finished[sequence_id]
            else:
                continue
            is_marked = mark is not None and mark in marked
            ids.append(sequence_id)
            counts.append(mark if is_marked and mark is not None else count)
            sums.append(marked[mark] if is_marked and mark is not None else total)
        if not ids:
            return [], [], self._bank.new_zeros(0, len(self._sums), self._bank.shape[1])
        divisor = torch.tensor(counts, dtype=torch.float32, device=self._bank.device).clamp(min=1)
        return ids, counts, torch.stack(sums) / divisor[:, None, None]

    def is_at_mark(self, sequence_id: str) -> bool:
        """Whether a sequence in flight has just as many states as one of its marks."""
        sequence = self._live[sequence_id]
        return sequence.count in sequence.request.marks

    def assign(self, batch: Sequence[ScheduledTokens]) -> IntArray | None:
        """Give each token of a step its row for steering and its row for summing, (2, T), and count it.

        Returns `None` where no token of the step is steered or summed, and the array of last time where it says the
        same and no row has changed hands.
        """
        active = [
            (offset, tokens, sequence)
            for offset, tokens in zip(_offsets(batch), batch, strict=True)
            if (sequence := self._live.get(tokens.sequence_id)) is not None
            and tokens.start + tokens.num_tokens > sequence.first_position(tokens.num_prompt_tokens)
        ]
        if not active:
            return None
        rows = np.zeros((2, sum(tokens.num_tokens for tokens in batch)), dtype=np.int64)
        steer_rows, pool_rows = rows
        in_batch = {tokens.sequence_id for _, tokens, _ in active}
        for offset, tokens, sequence in active:
            row = self._row_of(sequence, in_batch)
            end = tokens.start + tokens.num_tokens
            first_steered = max(tokens.start, tokens.num_prompt_tokens)
            first_new = max(tokens.start, sequence.first_position(tokens.num_prompt_tokens), sequence.next_position)
            if sequence.count in sequence.request.marks and sequence.count not in sequence.marked:
                sequence.marked[sequence.count] = self._sum_of(sequence)
            if sequence.vector is not None and first_steered < end:
                steer_rows[offset + first_steered - tokens.start : offset + tokens.num_tokens] = row
            if sequence.request.pool and not sequence.is_forgotten and first_new < end:
                pool_rows[offset + first_new - tokens.start : offset + tokens.num_tokens] = row
                sequence.count += end - first_new
            sequence.next_position = max(end, sequence.next_position)
        if self._assigned is None or self._has_given_row or not np.array_equal(rows, self._assigned):
            self._assigned, self._has_given_row = rows, False
        return self._assigned

    def _row_of(self, sequence: _Sequence, in_batch: set[str]) -> int:
        if sequence.row is not None:
            return sequence.row
        if not self._free_rows:
            self._park_one(in_batch)
        row = sequence.row = self._free_rows.pop()
        self._has_given_row = True
        if sequence.vector is not None:
            self._bank[row] = sequence.vector
            self._caps[row] = torch.tensor(sequence.cap)
        if sequence.parked is not None:
            for total, parked in zip(self._sums, sequence.parked, strict=True):
                total[row] = parked
            sequence.parked = None
        return row

    def _park_one(self, in_batch: set[str]) -> None:
        """Take the row of a sequence that is not computed in this step: a preempted one."""
        for sequence_id, sequence in self._live.items():
            if sequence.row is not None and sequence_id not in in_batch:
                sequence.parked = self._sum_of(sequence)
                self._release_row(sequence)
                return
        raise RuntimeError(f"More sequences in one step than the {len(self._bank) - 1} rows of the steering bank.")

    def _release_row(self, sequence: _Sequence) -> None:
        if sequence.row is None:
            return
        row, sequence.row = sequence.row, None
        for buffer in (self._bank, self._caps, *self._sums):
            buffer[row].zero_()
        self._free_rows.append(row)

    def _sum_of(self, sequence: _Sequence) -> Tensor:
        if sequence.parked is not None:
            return sequence.parked
        if sequence.row is None or not self._sums:
            return self._bank.new_zeros(len(self._sums), self._bank.shape[1])
        return torch.stack([total[sequence.row] for total in self._sums])

    def _shrink(self) -> None:
        while len(self._finished) > self._max_finished:
            self._finished.popitem(last=False)


def _offsets(batch: Sequence[ScheduledTokens]) -> list[int]:
    offsets = [0]
    for tokens in batch:
        offsets.append(offsets[-1] + tokens.num_tokens)
    return offsets[:-1]
