"""`palate serve` on one machine: start Ray, deploy, wait, and leave nothing behind.

Everything runs below this process, which adopts orphans (Linux's child subreaper), so that stopping it can end every
process it caused, even those of a replica that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from serve.artifacts.registry import find_artifact
from serve.config import Config
from serve.errors import ConfigurationError, EngineUnavailable
from serve.home import Home
from serve.models import find_model
from serve.run_folder import run_folder

PR_SET_CHILD_SUBREAPER = 36
OBJECT_STORE_BYTES = 80 * 1024 * 1024  # Ray's smallest; tokens do not go through it
START_TIMEOUT_S = 1_800.0
KILL_AFTER_S = 5.0
REAP_PERIOD_S = 5.0


def serve_forever(config: Config, home: Home) -> None:
    """Start the server, print its address, and serve until SIGINT or SIGTERM.

    Raises:
        ConfigurationError: the port is taken, or the artifact in service is damaged.
        ModelUnavailable: the model cannot be had.
        EngineUnavailable: the engine did not start.
    """
    _check_port(config.http.host, config.http.port)
    find_artifact(config, home)  # whoever starts a server hears of it; replicas that come up later serve without
    if config.engine.kind == "vllm":
        find_model(config.model.id, config.model.revision, home)
    stop = _Stop()
    with run_folder() as runtime, _adopted_processes(), _ray_stopped_at_exit(), stop.on_signals():
        _set_environment(config, runtime)
        begin = time.monotonic()
        _say(f"starting Ray and the engine ({config.engine.kind}: {config.model.name}); this takes up to two minutes")
        _start_ray(config, runtime)
        with stop.on_signals():  # Ray has put its own in place
            _deploy(config, stop)
            _serve_until(config, stop, begin)
    _say("stopped")


def _serve_until(config: Config, stop: _Stop, begin: float) -> None:
    if stop.asked.is_set():
        return
    address = f"http://{_shown_host(config.http.host)}:{config.http.port}"
    _say(f"ready after {time.monotonic() - begin:.0f} s")
    sys.stdout.write(f"Palate answers on {address}  (API: {address}/v1, reference: {address}/docs; Ctrl-C stops)\n")
    sys.stdout.flush()
    while not stop.asked.wait(REAP_PERIOD_S):
        _reap()
    _say("stopping: running requests may finish")
    _drain(config, stop)


def _say(text: str) -> None:
    sys.stderr.write(f"[palate] {text}\n")
    sys.stderr.flush()


def _shown_host(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - shown, not bound


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} on {host} cannot be used ({error.strerror}). Another server may be running there; "
                "choose another with --port."
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _set_environment(config: Config, runtime: Path) -> None:
    """Set what Ray, Ray Serve and prometheus-client read at import; workers inherit it."""
    metrics, sockets = runtime / "metrics", runtime / "vllm"
    for folder in (metrics, sockets, runtime / "haproxy"):
        folder.mkdir()
    os.environ.update(
        {
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            "VLLM_RPC_BASE_PATH": str(sockets),  # its processes leave them behind when they are ended
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # this cluster's own; none is kept
            "RAY_DEDUP_LOGS": "0",
            "PYTHONWARNINGS": "ignore",  # libraries' advice to their own developers
            "RAY_worker_niceness": "0",  # Ray would run the engine at 15, behind everything else on the machine
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_SERVE_LOG_TO_STDERR": "0",
            "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # our loops never block; a thread only delays
            "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
            "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
            "TRANSFORMERS_VERBOSITY": "error",
            **_proxy_environment(config, runtime),
        }
    )


def _proxy_environment(config: Config, runtime: Path) -> dict[str, str]:
    if config.http.proxy != "haproxy":
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    folder = runtime / "haproxy"
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    }


def _start_ray(config: Config, runtime: Path) -> None:
    import ray  # noqa: PLC0415 - reads the environment at import

    engine = config.engine
    most = engine.autoscaling.max_replicas if engine.autoscaling else engine.num_replicas
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, int(most * engine.num_cpus) + config.http.num_replicas + 1),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.ERROR,
        _temp_dir=str(runtime / "ray"),
        _node_ip_address="127.0.0.1",
    )


def _deploy(config: Config, stop: _Stop) -> None:
    from ray import serve  # noqa: PLC0415 - reads the environment at import
    from ray.serve.schema import LoggingConfig  # noqa: PLC0415

    from serve.app import compose  # noqa: PLC0415

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    location = "Disabled" if config.http.proxy == "none" else "EveryNode"
    http_options = {"host": config.http.host, "port": config.http.port}
    serve.start(proxy_location=location, http_options=http_options, logging_config=quiet)
    target = compose(config, is_listening=config.http.proxy == "none")
    application = serve.RunTarget(target=target, name="palate", route_prefix="/", logging_config=quiet)
    serve.run_many([application], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    _wait_until_ready(config, stop)


def _wait_until_ready(config: Config, stop: _Stop) -> None:
    from ray import serve  # noqa: PLC0415

    url = f"http://{_shown_host(config.http.host)}:{config.http.port}/ready"
    deadline = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while not stop.asked.wait(0.25) and time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(url).status_code == httpx.codes.OK:
                    return
            application = serve.status().applications.get("palate")
            if application is not None and application.status == "DEPLOY_FAILED":
                messages = [item.message for item in application.deployments.values() if item.message]
                raise EngineUnavailable("The engine did not start.\n" + "\n".join(messages or [application.message]))
    if not stop.asked.is_set():
        raise EngineUnavailable(f"The engine did not start within {START_TIMEOUT_S:.0f} s.")


def _drain(config: Config, stop: _Stop) -> None:
    """Let running requests finish, up to the configured time."""
    from ray import serve  # noqa: PLC0415

    def delete() -> None:
        with contextlib.suppress(Exception):  # the cluster goes away next, whatever this says
            serve.delete("palate", _blocking=True)

    worker = threading.Thread(target=delete, daemon=True)
    worker.start()
    deadline = time.monotonic() + config.engine.drain_timeout_s + 2.0
    while worker.is_alive() and time.monotonic() < deadline and not stop.hurried.wait(0.1):
        pass


@contextmanager
def _ray_stopped_at_exit() -> Iterator[None]:
    try:
        yield
    finally:
        if "ray" in sys.modules:  # Ray's own excepthook would wait for a cluster that is gone
            sys.modules["ray"].shutdown()


class _Stop:
    """Asked to stop by SIGINT or SIGTERM; asked twice, without draining."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.hurried = threading.Event()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handle the signals while inside."""

        def handle(_number: int, _frame: object) -> None:
            (self.hurried if self.asked.is_set() else self.asked).set()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _adopted_processes() -> Iterator[None]:
    """Adopt orphans while running, and end every descendant on the way out."""
    with contextlib.suppress(
        OSError, AttributeError
    ):  # not Linux: descendants are still found while their parents live
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _end_descendants()


def _reap() -> None:
    """Collect adopted processes that have ended."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def _end_descendants() -> None:
    for send in ("terminate", "kill"):
        processes = psutil.Process().children(recursive=True)
        if not processes:
            return
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, send)()
        psutil.wait_procs(processes, timeout=KILL_AFTER_S)
