"""vLLM's worker, extended: steers generated tokens, tilts their logits, keeps the mean of their states, hands it out.

`worker_extension_cls` makes vLLM add this class to its worker; its methods are called by `collective_rpc`.
Importing this module wraps the worker's `load_model`, because taps must be in place before the model is compiled, and
mends vLLM's adapters on CPUs. Needs model runner V1. Faults of one request are counted, never raised: an exception here
would end the engine.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm import envs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from serve.engines.cpu_adapters import mend_adapters
from serve.engines.repetition import SaidTokens, penalise
from serve.engines.sequence_states import ScheduledTokens, SequenceStates
from serve.engines.steering_request import SteeringRequest, from_extra_args
from serve.engines.tap import EagerTap, LayerTap, Step, Tap, decoder_layers
from serve.engines.tilt import TokenTilt
from serve.engines.worker_messages import SCHEDULER, SENT, Reading, States, WorkerConfig

if TYPE_CHECKING:
    from collections.abc import Callable

RANDOM_SUFFIX_LENGTH = 9  # "-" and eight characters, appended by vLLM's front end to every request id


class PalateWorkerExtension:
    """The methods added to vLLM's worker. Rank 0 answers; the others, whose states are the same, answer `None`."""

    def configure(self, message: Mapping[str, Any]) -> None:
        """Set directions, dose limit, layers and projection from `WorkerConfig.to_message`.

        Requests in flight keep the vectors they began with.

        Raises:
            ValueError: the configuration does not fit this engine.
        """
        _steerer_of(self).configure(WorkerConfig.from_message(message))

    def read_states(self, request_ids: Sequence[str], mark: int | None = None) -> dict[str, Any] | None:
        """Return `States.to_message` for the ids that are known, in flight or finished.

        With `mark`, those that named it among their marks are read as they were at that number of tokens. Ids are those
        given to `AsyncLLM.generate`; child i of a request with n > 1 is `f"{i}_{request_id}"`.
        """
        reply = _steerer_of(self).read_states(request_ids, mark)
        return reply.to_message() if self.rank == 0 else None  # type: ignore[attr-defined]

    def free_states(self, request_ids: Sequence[str]) -> None:
        """Forget the states of sequences, finished or in flight; unknown ids are ignored."""
        _steerer_of(self).states.forget(request_ids)

    def steering_stats(self) -> dict[str, int]:
        """Count sequences in flight, rows in use, finished sequences kept, and requests rejected as unreadable."""
        steerer = _steerer_of(self)
        return {
            "num_live": steerer.states.num_live,
            "num_rows_used": steerer.states.num_rows_used,
            "num_finished": steerer.states.num_finished,
            "num_rejected": steerer.num_rejected,
        }


@dataclass
class Steerer:
    """The state of one worker: taps, rows, and the configuration in force."""

    runner: Any
    layers: Any
    states: SequenceStates
    bank: Tensor  # (rows, H)
    caps: Tensor  # (rows, 2)
    has_random_suffix: bool
    taps: dict[int, LayerTap] = field(default_factory=dict)
    config: WorkerConfig | None = None
    directions: Tensor | None = None  # (H, D)
    basis: tuple[Tensor, Tensor, Tensor] | None = None  # (D, P), (P,), (P,)
    step: Step | None = None  # the last one with rows
    num_rejected: int = 0
    known: dict[str, str] = field(default_factory=dict)  # vLLM's id -> the caller's, "" where nothing is asked
    said: dict[str, SaidTokens] = field(default_factory=dict)  # by vLLM's id, those that pay for repeating themselves
    tilt: TokenTilt | None = None
    biases: dict[str, tuple[TokenTilt, Tensor]] = field(default_factory=dict)  # by vLLM's id, as they began

    def tap(self, layer: int) -> None:
        """Put a tap after a layer, unless one is there."""
        if layer in self.taps:
            return
        if not layer < len(self.layers):
            raise ValueError(f"The model has {len(self.layers)} layers, counted from 0; there is no layer {layer}.")
        is_eager_cpu = self.bank.device.type == "cpu" and self.runner.model_config.enforce_eager
        tap: LayerTap = (
            EagerTap(self.bank, self.caps) if is_eager_cpu else Tap(self.runner.max_num_tokens, self.bank, self.caps)
        )
        tap.attach(self.layers[layer])
        self.taps[layer] = tap

    def configure(self, config: WorkerConfig) -> None:
        """Take a configuration."""
        self._check(config)
        for layer in config.layers:
            self.tap(layer)
        self.states.pool_into([self.taps[layer].sums for layer in config.pooled_layers], config.max_finished)
        for layer in config.layers:
            self.taps[layer].use_for(steering=layer == config.steered_layer, summing=layer in config.pooled_layers)
        self.config = config
        self.directions = torch.from_numpy(config.directions).to(self.bank.device)
        tokens = config.token_features
        self.tilt = None if tokens is None else TokenTilt(tokens, self.bank.device)
        projection = config.projection
        self.basis = projection and tuple(  # type: ignore[assignment]
            torch.from_numpy(array).to(self.bank.device)
            for array in (projection.basis, projection.mean, projection.scale)
        )

    def _check(self, config: WorkerConfig) -> None:
        vllm_config, hidden_size = self.runner.vllm_config, self.bank.shape[1]
        if config.directions.shape[0] != hidden_size:
            raise ValueError(f"The directions are {config.directions.shape[0]} long, the model's states {hidden_size}.")
        if self.config is not None and self.states.num_live and config.steered_layer != self.config.steered_layer:
            raise ValueError("Sequences are in flight; drain them before the steered layer changes.")
        if vllm_config.cache_config.enable_prefix_caching and vllm_config.scheduler_config.scheduler_cls != SCHEDULER:
            raise ValueError(
                f"With prefix caching, steering needs scheduler_cls='{SCHEDULER}': without it, steered blocks would be "
                "read by other people's requests. Start the engine with engine_settings(layers)."
            )
        tokens, vocabulary = config.token_features, self.runner.model_config.get_vocab_size()
        if tokens is not None and len(tokens.tokens) and tokens.tokens.max() >= vocabulary:
            raise ValueError(f"The model has {vocabulary} tokens; there is no token {tokens.tokens.max()}.")
        untapped = [layer for layer in config.layers if layer not in self.taps]
        if untapped and not self.runner.model_config.enforce_eager:
            raise ValueError(
                f"The compiled model has taps at layers {sorted(self.taps)}, not at {untapped}. "
                "Start the engine with engine_settings(layers) naming all of them."
            )

    def forward(self, model_forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the model with this step's rows in the taps."""
        step = self._coming_step() if self.config is not None else None
        if step is None or self.config is None:
            return model_forward(*args, **kwargs)
        taps = [self.taps[layer] for layer in self.config.layers]
        for tap in taps:
            tap.begin(step)
        try:
            return model_forward(*args, **kwargs)
        finally:
            for tap in taps:
                tap.end()

    def _coming_step(self) -> Step | None:
        batch = self.runner.input_batch
        num_reqs = batch.num_reqs
        request_ids = batch.req_ids[:num_reqs]
        for request_id in request_ids:
            if request_id not in self.known:
                self._begin(request_id)
        if not self.states.num_live:
            return None
        bounds = self.runner.query_start_loc.np[: num_reqs + 1].tolist()
        prompts = batch.num_prompt_tokens[:num_reqs].tolist()
        starts = batch.num_computed_tokens_cpu[:num_reqs].tolist()
        rows = self.states.assign(
            [
                ScheduledTokens(self.known[request_id], prompts[i], starts[i], bounds[i + 1] - bounds[i])
                for i, request_id in enumerate(request_ids)
            ]
        )
        if rows is not None and (self.step is None or self.step.rows is not rows):
            self.step = Step.of(rows)
        return None if rows is None else self.step

    def _begin(self, request_id: str) -> None:
        """Look at a request for the first time; one that cannot be served as asked stays untouched and is counted."""
        self.known[request_id] = ""
        params = self.runner.requests[request_id].sampling_params
        sequence_id = request_id[:-RANDOM_SUFFIX_LENGTH] if self.has_random_suffix else request_id
        try:
            request = from_extra_args(params.extra_args if params is not None else None)
            if request is None or self.config is None or self.directions is None:
                return
            vector = self._vector_of(request, self.directions)
            self.states.start(sequence_id, request, vector, self.config.max_dose)
        except ValueError:
            self.num_rejected += 1
            return
        self.known[request_id] = sequence_id
        if request.repetition_penalty > 1.0:
            self.said[request_id] = SaidTokens(request.repetition_penalty)
        if request.tilt > 0.0 and self.tilt is not None and vector is not None:
            self.biases[request_id] = self.tilt, self.tilt.bias(request.coeffs, request.tilt)

    def _vector_of(self, request: SteeringRequest, directions: Tensor) -> Tensor | None:
        if not request.is_steered:
            return None
        if len(request.coeffs) != directions.shape[1]:
            raise ValueError(f"There are {directions.shape[1]} directions, not {len(request.coeffs)}.")
        return directions @ torch.tensor(request.coeffs, device=directions.device)

    def sample(self, sample_tokens: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Sample a step's tokens; the states that are due now leave with them, so that nobody waits for a step to ask.

        Where steps overlap (GPU) the tokens are not known yet, and states are asked for by `read_states`.
        """
        self._change_logits()
        output = sample_tokens(*args, **kwargs)
        if isinstance(output, ModelRunnerOutput) and self.states.num_live:
            due = [
                (request_id, sequence_id)
                for request_id, tokens in zip(output.req_ids, output.sampled_token_ids, strict=False)
                if tokens and (sequence_id := self.known.get(request_id)) and self._is_due(request_id, tokens[-1])
            ]
            if due:
                states = self.read_states([sequence_id for _, sequence_id in due])
                readings = {
                    request_id: Reading(states.version, states.counts[sequence_id], states.values[sequence_id])
                    for request_id, sequence_id in due
                    if sequence_id in states.counts
                }
                setattr(output, SENT, {key: reading.to_message() for key, reading in readings.items()})
        return output

    def _change_logits(self) -> None:
        """Tilt the logits of steered answers, and make tokens less likely that an answer has already."""
        state = self.runner.execute_model_state
        if state is None or not (self.said or self.biases):
            return
        logits = state.logits.float()  # as the sampler has them; bfloat16 would round a tilt
        self.runner.execute_model_state = state._replace(logits=logits)
        batch, said = self.runner.input_batch, list[tuple[int, SaidTokens]]()
        batch.update_async_output_token_ids()  # where steps overlap, the last token is known by now
        tilted = dict[TokenTilt, list[tuple[int, Tensor]]]()
        for row, request_id in enumerate(batch.req_ids[: batch.num_reqs]):
            if request_id in self.biases:
                tilt, bias = self.biases[request_id]
                tilted.setdefault(tilt, []).append((row, bias))
            if request_id in self.said:
                self.said[request_id].read(self.runner.requests[request_id].output_token_ids)
                said.append((row, self.said[request_id]))
        for tilt, pairs in tilted.items():
            tilt.add(logits, [row for row, _ in pairs], [bias for _, bias in pairs])
        penalise(logits, said)

    def _is_due(self, request_id: str, token_id: int) -> bool:
        """Whether a sequence ends with this token, as far as is known here, or has reached one of its marks."""
        request = self.runner.requests[request_id]
        params = request.sampling_params
        return (
            len(request.output_token_ids) >= (params.max_tokens or 0)
            or token_id in params.all_stop_token_ids
            or self.states.is_at_mark(self.known[request_id])
        )

    def end(self, request_id: str) -> None:
        """Let go of a request that finished or was aborted."""
        self.said.pop(request_id, None)
        self.biases.pop(request_id, None)
        sequence_id = self.known.pop(request_id, "")
        if sequence_id:
            self.states.finish(sequence_id)

    def read_states(self, request_ids: Sequence[str], mark: int | None = None) -> States:
        """Return mean states or features."""
        ids, counts, means = self.states.read(request_ids, mark)
        if self.basis is not None:
            basis, mean, scale = self.basis
            means = ((means.flatten(1) - mean) / scale) @ basis.T  # (N, D)
        version = self.config.version if self.config is not None else ""
        values = means.float().cpu().numpy()
        return States(version, dict(zip(ids, counts, strict=True)), dict(zip(ids, values, strict=True)))


def _steerer_of(worker: Any) -> Steerer:
    steerer = getattr(worker, "_palate_steerer", None)
    if not isinstance(steerer, Steerer):
        raise RuntimeError("The worker's model was loaded before the steering extension was there.")
    return steerer


def _build_steerer(runner: Any) -> Steerer:
    """Tap the model that `runner` has just loaded.

    Raises:
        ValueError: the engine's settings exclude steering; the message says which.
    """
    config = runner.vllm_config
    for is_hindrance, remedy in (
        (not isinstance(runner, GPUModelRunner), "model runner V1: set VLLM_USE_V2_MODEL_RUNNER=0"),
        (config.speculative_config is not None, "no speculative decoding: rejected drafts would be summed"),
        (config.parallel_config.pipeline_parallel_size > 1, "all layers in one worker: use tensor parallelism"),
        (config.parallel_config.num_ubatches > 1, "no micro-batching (dual batch overlap)"),
    ):
        if is_hindrance:
            raise ValueError(f"Steering needs {remedy}.")
    text_config = runner.model_config.hf_text_config
    shape = config.scheduler_config.max_num_seqs + 1, runner.model_config.get_hidden_size()
    bank = torch.zeros(shape, device=runner.device)
    caps = torch.zeros(shape[0], 2, device=runner.device)
    steerer = Steerer(
        runner=runner,
        layers=decoder_layers(runner.get_model(), text_config.num_hidden_layers),
        states=SequenceStates(bank, caps, max_finished=0),
        bank=bank,
        caps=caps,
        has_random_suffix=not envs.VLLM_DISABLE_REQUEST_ID_RANDOMIZATION,
    )
    # Where steps overlap, vLLM finds out what was drawn only if something needs to know, such as a repetition penalty.
    runner.input_batch.logitsprocs_need_output_token_ids |= bool(config.scheduler_config.async_scheduling)
    for layer in config.additional_config.get("palate", {}).get("layers", []):
        steerer.tap(layer)
    return steerer


def _wrap_load_model(load_model: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(load_model)
    def load_then_tap(worker: Any, *args: Any, **kwargs: Any) -> None:
        load_model(worker, *args, **kwargs)
        if isinstance(worker, PalateWorkerExtension):
            runner = worker.model_runner  # type: ignore[attr-defined]
            steerer = _build_steerer(runner)
            worker._palate_steerer = steerer  # type: ignore[attr-defined]
            runner._model_forward = functools.partial(steerer.forward, runner._model_forward)
            runner.sample_tokens = functools.partial(steerer.sample, runner.sample_tokens)
            runner._on_request_state_removed = lambda request_id, _state: steerer.end(request_id)

    return load_then_tap


Worker.load_model = _wrap_load_model(Worker.load_model)
mend_adapters()
