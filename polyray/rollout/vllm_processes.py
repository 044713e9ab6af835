"""vLLM's AsyncLLM with its processes, for callers that do not live in its event loop.

this process: any thread --> an event loop in another thread, with vLLM's AsyncLLM
vLLM's:       EngineCore --> one worker per device
watchdog:     kills those and removes their sockets when this process is gone, however it went
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from polyray.config.rollout import RolloutSpec
from polyray.errors import RolloutError, WeightSyncError
from polyray.rollout.gpu_startup_lock import gpu_startup_lock
from polyray.rollout.vllm_engine import import_vllm
from polyray.rollout.watchdog import Watchdog

SHUTDOWN_S = 10.0


class VllmProcesses:
    """AsyncLLM, its loop and its watchdog; also the `EngineCalls` of an adapter delivery."""

    def __init__(self, arguments: Mapping[str, Any], spec: RolloutSpec) -> None:
        """Starts the processes of the engine that `spec` asks for, and waits for them; `arguments` are vLLM's."""
        self._timeout_s = spec.start_timeout_s
        self._sockets = Path(tempfile.mkdtemp(prefix="polyray-engine-"))
        self._watchdog = Watchdog([self._sockets])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-async", daemon=True)
        self._thread.start()
        try:
            with gpu_startup_lock(spec), self._watchdog.marking():
                self.llm: Any = self.call(_start(arguments, spec, self._sockets))
        except BaseException:
            self._watchdog.close()
            raise

    def begin(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run work in the loop; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run work in the loop, and wait. Raises RolloutError if it takes too long."""
        try:
            return self.begin(work).result(self._timeout_s)
        except TimeoutError as error:
            raise RolloutError(
                f"vLLM's processes gave no answer within rollout.start_timeout_s={self._timeout_s:g} s"
            ) from error

    def add_lora(self, lora_request: Any) -> bool:
        """See `EngineCalls.add_lora`."""
        return self.call(self.llm.add_lora(lora_request))

    def remove_lora(self, lora_id: int) -> bool:
        """See `EngineCalls.remove_lora`."""
        return self.call(self.llm.remove_lora(lora_id))

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> list[Any]:
        """Refused: weights would have to be copied into every process."""
        raise WeightSyncError(f"{method}: an engine of several processes takes adapters only")

    def reset_prefix_cache(self) -> bool:
        """See `EngineCalls.reset_prefix_cache`."""
        return self.call(self.llm.reset_prefix_cache())

    def close(self) -> None:
        """Ends the processes; the watchdog those that do not."""
        try:
            self._loop.call_soon_threadsafe(self.llm.shutdown, 0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SHUTDOWN_S)
        finally:
            self._watchdog.close()


async def _start(arguments: Mapping[str, Any], spec: RolloutSpec, sockets: Path) -> Any:
    import_vllm(on_gpu=bool(spec.gpus_per_worker))
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    # Forked processes would not carry the watchdog's mark, and would inherit this process' threads' locks.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ["VLLM_RPC_BASE_PATH"] = str(sockets)
    complete = {
        **arguments,
        "tensor_parallel_size": spec.tensor_parallel_size,
        "distributed_executor_backend": "mp",
    }
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**complete))
