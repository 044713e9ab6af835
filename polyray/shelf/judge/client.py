"""One answer for one request: cache, budget, bounded concurrency, and the form that the endpoint knows.

    judges.py --ChatRequest--> JudgeClient --cache miss--> Provider (providers.py) --> cache, ledger

Equal requests that run at the same time are sent once. Lives in one event loop; runner.py owns that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from polyray.config.judge import JudgeSpec
from polyray.shelf.judge.cache import AnswerCache, request_sha256, tokens_of
from polyray.shelf.judge.items import Usage
from polyray.shelf.judge.ledger import Ledger, priced
from polyray.shelf.judge.providers import FORMS, ChatAnswer, ChatRequest, Form, NoAnswer, Provider, Refused


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer with its price and its content hash.

    Example:
        Answered(ChatAnswer(...), Usage(1, 310, 0, 9, 0.0004), key="9f86d0...", cached=False)
    """

    answer: ChatAnswer
    usage: Usage
    key: str
    cached: bool


class JudgeClient:
    """Client of a judge's provider, by the settings of a JudgeSpec."""

    def __init__(self, provider: Provider, spec: JudgeSpec, cache: AnswerCache) -> None:
        self.spec = spec
        self.ledger = Ledger(spec, cache.paid)
        self.num_cached = 0
        """Answers that came from the cache."""
        self._provider = provider
        self._cache = cache
        self._slots = asyncio.Semaphore(spec.concurrency)
        self._running: dict[str, asyncio.Future[ChatAnswer]] = {}
        known = spec.structured_output
        self._forms: tuple[Form, ...] = FORMS[spec.provider] if known == "auto" else (known,)

    async def ask(self, request: ChatRequest) -> Answered:
        """The answer. Raises NoAnswer, Refused, BudgetReached, or JudgeError where none will ever come."""
        key = request_sha256(self.spec, request)
        known = self._cache.get(key)
        if known is None and key in self._running:
            known = await asyncio.shield(self._running[key])
        if known is not None:
            self.num_cached += 1
            return Answered(known, priced(tokens_of(known), self.spec.prices), key, cached=True)
        future: asyncio.Future[ChatAnswer] = asyncio.get_running_loop().create_future()
        self._running[key] = future
        try:
            answered = await self._ask_now(request, key)
            future.set_result(answered.answer)
            return answered
        except BaseException as error:
            future.set_exception(
                NoAnswer("cancelled") if isinstance(error, asyncio.CancelledError) else error
            )
            future.exception()  # there may be no waiting caller, and that is no defect
            raise
        finally:
            del self._running[key]

    async def close(self) -> None:
        """Closes the provider's connections."""
        await self._provider.close()

    async def _ask_now(self, request: ChatRequest, key: str) -> Answered:
        async with self._slots:
            self.ledger.add_elsewhere(self._cache.paid_elsewhere())
            self.ledger.admit()
            try:
                answer = await self._in_some_form(request)
            except BaseException:
                self.ledger.settle(None)
                raise
            charged = self.ledger.settle(tokens_of(answer))
            self._cache.put(key, answer)
            return Answered(answer, charged, key, cached=False)

    async def _in_some_form(self, request: ChatRequest) -> ChatAnswer:
        """Asks in the forms that may work, until one has: that is the only one from then on.

        A request that is refused in all of them (too long, say) decides nothing.
        """
        last: Refused | None = None
        for form in self._forms:
            try:
                answer = await self._provider.ask(request, form)
            except Refused as refused:
                last = refused
                continue
            self._forms = (form,)
            return answer
        assert last is not None
        raise last
