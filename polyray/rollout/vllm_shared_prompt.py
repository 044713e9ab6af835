"""A group's prompt computed once: a connector of vLLM that copies its keys and values from one sample to the others.

    first sample --prefill--> keys and values of the prompt --copy--> other samples, which compute the last token only

vLLM's own prefix cache finds full blocks again. Tokens behind the last full block are computed by every sample of a
group: 20 of 52 tokens in blocks of 32. The copy gives the same bits as computing them would.

Samples of a group are requests `<group>/<submission>/<sample>`. A sample waits while another one of its group is
computing the prompt. If no other sample computes it or holds it, this one computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata
from vllm.v1.request import Request, RequestStatus


@dataclass(frozen=True, slots=True)
class Copies(KVConnectorMetadata):
    """Blocks that a step copies before it computes."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]


class SharedPrompt(KVConnectorBase_V1):
    """See the module. vLLM makes one for its scheduler and one for its worker, which talk through `Copies`."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._block_size: int = vllm_config.cache_config.block_size
        self._blocks: Any = None
        self._groups: dict[str, list[Request]] = {}
        """Samples of each group that were scheduled and have not ended."""
        self._copies: list[tuple[int, int]] = []

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        """Keeps vLLM's table of blocks."""
        self._blocks = kv_cache_manager

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Prompt tokens to copy for a sample; None while another one computes them."""
        if self._source(request) is not None:
            return max(0, request.num_prompt_tokens - 1 - num_computed_tokens), False
        # A preempted sample has lost its blocks and waits itself, so no other may wait for it.
        computing = any(sample.status == RequestStatus.RUNNING for sample in self._others(request))
        return None if computing else 0, False

    def update_state_after_alloc(self, request: Request, blocks: Any, num_external_tokens: int) -> None:
        """Records a scheduled sample, and the blocks to copy for it."""
        group = group_of(request.request_id)
        if not group:
            return
        if num_external_tokens:
            source = self._source(request)
            assert source is not None
            (theirs,) = self._blocks.get_block_ids(source.request_id)
            (ours,) = blocks.get_block_ids()
            end = request.num_prompt_tokens - 1
            copied = slice((end - num_external_tokens) // self._block_size, -(-end // self._block_size))
            self._copies += zip(theirs[copied], ours[copied], strict=True)
        samples = self._groups.setdefault(group, [])
        if request not in samples:
            samples.append(request)

    def build_connector_meta(self, scheduler_output: Any) -> Copies:
        """Copies of the step that was just scheduled."""
        copies, self._copies = self._copies, []
        return Copies(tuple(source for source, _ in copies), tuple(target for _, target in copies))

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Forgets a sample; vLLM may free its blocks at once."""
        group, others = group_of(request.request_id), self._others(request)
        self._groups.pop(group, None)
        if others:
            self._groups[group] = others
        return False, None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Copies blocks in the cache of every layer, [blocks, heads, tokens, 2 head sizes] each."""
        copies = self._get_connector_metadata()
        assert isinstance(copies, Copies)
        if copies.sources:
            sources, targets = list(copies.sources), list(copies.targets)
            for layer in forward_context.no_compile_layers.values():
                layer.kv_cache[targets] = layer.kv_cache[sources]

    def wait_for_save(self, *args: Any, **kwargs: Any) -> None:
        """No effect: copies are made at once, and the cache itself is their source."""

    wait_for_layer_load = save_kv_layer = wait_for_save

    def _source(self, request: Request) -> Request | None:
        """A sample that has computed the prompt and still holds its blocks."""
        needed = request.num_prompt_tokens
        return next((one for one in self._others(request) if one.num_computed_tokens >= needed), None)

    def _others(self, request: Request) -> list[Request]:
        samples = self._groups.get(group_of(request.request_id), [])
        return [sample for sample in samples if sample is not request]


def group_of(request_id: str) -> str:
    """`<group>/<submission>` of a sample; empty for any other request."""
    group, _, sample = request_id.rpartition("/")
    return group if sample.isdigit() and "/" in group else ""
