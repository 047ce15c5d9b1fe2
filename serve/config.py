"""The configuration: one frozen tree, one YAML file, defaults in one place.

Only this module reads the environment, and only for the file's path (`PALATE_CONFIG`) and for secrets. Unknown keys are
errors. `docs/configuration.md` is generated from the descriptions here (`palate config docs`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from serve.errors import ConfigurationError
from serve.models import DEFAULT_MODEL
from user_store.open import check_url

PORT_MAX = 65_535


class Section(BaseModel):
    """A part of the configuration: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpConfig(Section):
    """The HTTP endpoint."""

    host: str = Field("127.0.0.1", description="Address to listen on. `0.0.0.0` opens the server to the network.")
    port: int = Field(8000, ge=1, le=PORT_MAX, description="Port to listen on.")
    proxy: Literal["none", "haproxy", "python"] = Field(
        "none",
        description="What `palate serve` puts in front of the ingress replicas: nothing (they listen themselves: the "
        "fastest), HAProxy as managed by Ray Serve, or Ray Serve's own proxy. On a cluster Ray's settings decide.",
    )
    max_body_bytes: int = Field(4_000_000, ge=1_000, le=256_000_000, description="Larger request bodies get 413.")
    max_messages: int = Field(1_024, ge=1, le=100_000, description="Most messages in one chat request.")
    max_choices: int = Field(16, ge=1, le=128, description="Largest `n`.")
    max_prompts: int = Field(64, ge=1, le=2_048, description="Most prompts in one completions request.")
    request_timeout_s: float = Field(600.0, gt=0, le=86_400, description="Longest time one request may take.")
    num_replicas: int = Field(1, ge=1, le=256, description="Replicas of the ingress deployment.")
    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/*\s]+)$")], ...] = Field(
        (),
        max_length=64,
        description="Origins of web pages elsewhere that may call the API from a browser; `*` is all.",
    )
    page: bool = Field(True, description="Serve the web page at `/`.")


class ModelConfig(Section):
    """The base model."""

    id: str = Field(
        DEFAULT_MODEL.name,
        min_length=1,
        description="An embedded model, a folder with safetensors, or a hub id like `org/name`.",
    )
    served_name: str | None = Field(None, description="Name clients use; by default the last part of `id`.")
    revision: str | None = Field(None, description="Revision of a hub model.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="Type of the weights.")
    max_model_len: int | None = Field(
        None,
        ge=16,
        description="Longest prompt plus answer, in tokens; by default what the model allows, at most 8192.",
    )
    chat_template: Path | None = Field(None, description="A Jinja chat template to use instead of the model's own.")
    tool_parser: str | None = Field(
        None, description="vLLM's tool parser for this model (for example `hermes`); without one, tools get 400."
    )
    reasoning_parser: str | None = Field(None, description="vLLM's reasoning parser for this model.")

    @property
    def name(self) -> str:
        """The name clients use."""
        return self.served_name or self.base_name

    @property
    def base_name(self) -> str:
        """The model's own name, by which artifacts know it, whatever clients call it."""
        return self.id.rstrip("/").rsplit("/", 1)[-1]


class AutoscalingConfig(Section):
    """Ray Serve's autoscaling of the engine deployment."""

    min_replicas: int = Field(1, ge=0, le=1_024, description="Fewest engine replicas.")
    max_replicas: int = Field(1, ge=1, le=1_024, description="Most engine replicas.")
    target_ongoing_requests: float = Field(16.0, gt=0, description="Running requests per replica to aim for.")

    @model_validator(mode="after")
    def _ordered(self) -> AutoscalingConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is larger than max_replicas")
        return self


class EngineConfig(Section):
    """The engine deployment."""

    kind: Literal["vllm", "scripted"] = Field(
        "vllm", description="`vllm` is the real one; `scripted` answers without weights, for tests of applications."
    )
    num_replicas: int = Field(1, ge=1, le=1_024, description="Engine replicas, unless `autoscaling` is given.")
    autoscaling: AutoscalingConfig | None = Field(None, description="Scale the replicas with the load.")
    num_gpus: float = Field(0.0, ge=0, le=64, description="GPUs of one replica; 0 runs on the CPU.")
    num_cpus: float = Field(1.0, ge=0, le=1_024, description="CPUs Ray reserves for one replica.")
    tensor_parallel_size: int = Field(1, ge=1, le=64, description="GPUs one copy of the model is split over.")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory vLLM may take.")
    cpu_kv_cache_gib: int = Field(2, ge=1, le=4_096, description="Memory for the KV cache on a CPU.")
    max_num_seqs: int = Field(64, ge=1, le=4_096, description="Most sequences in one batch.")
    compile: bool = Field(
        False, description="torch.compile and CUDA graphs: faster tokens, and a start that is a minute longer."
    )
    max_ongoing_requests: int = Field(64, ge=1, le=100_000, description="Requests one replica works on at a time.")
    max_queued_requests: int = Field(
        64, ge=0, le=1_000_000, description="Requests that wait for a replica; beyond that the answer is 429."
    )
    max_loras: int = Field(
        0, ge=0, le=1_024, description="LoRA adapters in one batch; 0 serves without adapters, which is faster."
    )
    max_lora_rank: int = Field(16, ge=1, le=512, description="Largest rank of an adapter.")
    health_check_period_s: float = Field(1.0, gt=0, le=600, description="How often Ray Serve asks a replica.")
    drain_timeout_s: float = Field(20.0, ge=0, le=3_600, description="Time running requests get at shutdown.")


class PersonalizationConfig(Section):
    """How people's feedback shapes their answers."""

    enabled: bool = Field(True, description="Off: every request gets the base model, and feedback is only kept.")
    artifact: Path | None = Field(
        None, description="Folder of the artifact to serve; by default the published one, else the one shipped."
    )
    publication_check_s: float = Field(
        0.25, gt=0, le=3_600, description="How often to look for a newly published artifact, which then serves at once."
    )
    best_of: int = Field(
        4, ge=1, le=32, description="Candidates for a person with feedback; 1 only steers and costs no extra token."
    )
    max_best_of: int = Field(16, ge=1, le=32, description="Largest `palate.best_of` a request may ask for.")
    halving: bool = Field(
        True, description="Stop losing candidates at checkpoints, and stream the survivor from there."
    )
    checkpoints: tuple[Annotated[int, Field(ge=2, le=100_000)], ...] = Field(
        (24, 32, 48), max_length=16, description="Generated tokens at which candidates are compared."
    )
    gate: float = Field(
        0.55, ge=0.5, le=1, description="P(better than the base answer) a candidate needs to be served."
    )
    steering_gate: float = Field(0.8, ge=0.5, le=1, description="P(steering gains) needed to steer at all.")
    explore: float = Field(0.0, ge=0, le=1, description="Share of the candidates drawn to learn more about the person.")
    instructions: bool = Field(True, description="Let a shared style sentence be one of the candidates.")

    @model_validator(mode="after")
    def _consistent(self) -> PersonalizationConfig:
        if list(self.checkpoints) != sorted(set(self.checkpoints)):
            raise ValueError("checkpoints must rise")
        if self.best_of > self.max_best_of:
            raise ValueError("best_of is larger than max_best_of")
        return self


class StoreConfig(Section):
    """Where people, their feedback and their posteriors are kept."""

    url: str | None = Field(
        None,
        description="`sqlite:///path/palate.db` or `redis://…`; by default `PALATE_STORE_URL`, else a file under "
        "`PALATE_HOME`. Keep passwords out of it: `PALATE_STORE_USERNAME`, `PALATE_STORE_PASSWORD`.",
    )
    timeout_s: float = Field(2.0, gt=0, le=60, description="Longest time one call to Redis may take.")
    spool: bool = Field(
        False,
        description="While the store is away: keep feedback in a local file and deliver it later, instead of 503.",
    )

    @field_validator("url")
    @classmethod
    def _understood(cls, url: str | None) -> str | None:
        if url is not None:
            check_url(url)
        return url


class FeedbackConfig(Section):
    """What is remembered of answers, and what counts as feedback."""

    completion_ttl_s: float = Field(
        30 * 86_400.0,
        ge=1,
        le=366 * 86_400,
        description="How long an answer can be judged by its id; after that 410.",
    )
    keep_texts: bool = Field(
        False, description="Keep the texts of answers and of what people wrote or compared, not only their features."
    )
    implicit: bool = Field(
        False,
        description="Read thanks, corrections and repeated questions in the next turn as weak feedback, marked as "
        "inferred; people can see and withdraw it.",
    )
    max_candidates: int = Field(16, ge=2, le=64, description="Most texts given inline in one piece of feedback.")


class UsersConfig(Section):
    """Who a request is for, and the index of everybody's taste."""

    trusted_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]{1,64}$",
        description="Header that names the person, set by a proxy you trust; it wins over the body's "
        "`safety_identifier` and `user`.",
    )
    index: bool = Field(True, description="Keep everybody's taste in memory, for neighbours and cohorts.")
    index_refresh_s: float = Field(
        3_600.0, ge=1, le=7 * 86_400, description="How often the index is built anew from the store."
    )


class KeyLimits(Section):
    """Limits of one API key; unset ones do not limit."""

    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000_000, description="Requests (POST) a minute.")
    tokens_per_minute: int | None = Field(
        None, ge=1, le=1_000_000_000, description="Tokens a minute, prompts and served answers."
    )
    tokens_per_day: int | None = Field(None, ge=1, le=1_000_000_000_000, description="Tokens a day.")


class UserLimits(Section):
    """Limits of one person, in requests that name them; unset ones do not limit."""

    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000_000, description="Requests a minute.")
    tokens_per_day: int | None = Field(None, ge=1, le=1_000_000_000_000, description="Tokens a day.")


class LimitsConfig(Section):
    """How much a key and a person may ask for; off by default. Counted in the store's Redis, else by each replica."""

    key: KeyLimits = Field(KeyLimits(), description="Every key that `keys` does not name.")
    keys: dict[str, KeyLimits] = Field(
        {}, description="Limits of single keys, by the id that `palate keys list` shows."
    )
    user: UserLimits = Field(UserLimits(), description="Every person.")

    @property
    def is_on(self) -> bool:
        """Whether anything is limited."""
        return any(value is not None for part in (self.key, self.user, *self.keys.values()) for _, value in part)


class LogConfig(Section):
    """What is logged; never prompts, answers or people's ids."""

    format: Literal["text", "json"] = Field("text", description="`json` is one object a line, for collectors.")
    level: Literal["debug", "info", "warning", "error"] = Field("warning", description="The least severe that is said.")
    access: bool = Field(False, description="Say one line a request, whatever the level: path, status, times, key.")


class TracingConfig(Section):
    """OpenTelemetry traces of answers, one span a stage; off by default. Needs `palate[tracing]`, which vLLM brings."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s@]+$",
        description="Where spans go (OTLP over HTTP), such as `http://collector:4318/v1/traces`; unset: no traces. "
        "Headers come from `OTEL_EXPORTER_OTLP_HEADERS`.",
    )
    share: float = Field(
        1.0, ge=0, le=1, description="Share of traces that are kept, unless the caller's trace has decided."
    )


class Config(Section):
    """The whole configuration."""

    http: HttpConfig = HttpConfig()
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    personalization: PersonalizationConfig = PersonalizationConfig()
    store: StoreConfig = StoreConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    users: UsersConfig = UsersConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.engine.kind == "scripted" and self.engine.num_gpus:
            raise ValueError("engine.kind is scripted, which uses no GPU: set engine.num_gpus to 0")
        return self


class Secrets(Section):
    """What may only come from the environment."""

    api_key: Annotated[SecretStr | None, Field(description="`PALATE_API_KEY`: the key clients must send, if set.")] = (
        None
    )
    store_url: SecretStr | None = None
    store_username: str | None = None
    store_password: SecretStr | None = None
    gateway_secret: SecretStr | None = None

    @classmethod
    def from_env(cls) -> Secrets:
        """Read the secrets."""

        def secret(name: str) -> SecretStr | None:
            value = os.environ.get(name)
            return SecretStr(value) if value else None

        return cls(
            api_key=secret("PALATE_API_KEY"),
            store_url=secret("PALATE_STORE_URL"),
            store_username=os.environ.get("PALATE_STORE_USERNAME"),
            store_password=secret("PALATE_STORE_PASSWORD"),
            gateway_secret=secret("PALATE_GATEWAY_SECRET"),
        )


def load(path: Path | None = None, overrides: dict[str, dict[str, Any]] | None = None) -> Config:
    """Read the YAML file (or the defaults), lay `overrides` over it, and validate.

    Args:
        path: The file; by default the one `PALATE_CONFIG` names, if it is set.
        overrides: Section to key to value, as from the command line.

    Raises:
        ConfigurationError: naming every wrong key at once.
    """
    if path is None and os.environ.get("PALATE_CONFIG"):
        path = Path(os.environ["PALATE_CONFIG"])
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"Cannot read the configuration {path}: {error}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigurationError(f"{path} must hold a mapping of sections, not a {type(loaded).__name__}.")
        tree = loaded or {}
    for section, values in (overrides or {}).items():
        below = tree.setdefault(section, {})
        if isinstance(below, dict):
            below.update(values)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part) for part in item['loc']) or '(top)'}: {_complaint(item['type'], item['msg'])}"
            for item in error.errors()
        ]
        where = f" in {path}" if path else ""
        raise ConfigurationError("\n".join([f"The configuration{where} is not valid:", *lines])) from error


def _complaint(kind: str, message: str) -> str:
    return "there is no such setting" if kind == "extra_forbidden" else message
