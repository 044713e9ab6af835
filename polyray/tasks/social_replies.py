"""Social replies: answer a post the way people who got approval for it did.

Data: the user's own export, Stack Exchange threads, or a built-in dozen (polyray/data/social.py says what a
file looks like). One prompt per post; posts of one thread stay in one part, and engagement ranks the
demonstrations. The heuristic reward does not predict engagement: of history.meta's 4,307 pairs of replies to
one post it prefers the one with more votes in 51 %. It only tells a plausible reply from garbage.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from polyray.config.text_tasks import SocialRepliesSpec
from polyray.data.json_lines import read_objects
from polyray.data.social import SocialReply, read_export
from polyray.data.sources import data_path
from polyray.data.stack_exchange import is_thread, read_threads
from polyray.tasks.text_quality import QualityProfile
from polyray.tasks.text_task import RatedText, SourceRow, TextTask

_ANY_LINE = '{"prompt": "...", "reply": "...", "engagement": 12}'


class SocialReplies(TextTask):
    """Replies to posts; see the module docstring."""

    name = "social_replies"
    profiles: Mapping[str, QualityProfile] = {
        "": QualityProfile(length_band=(0, 8, 120, 1000), enough_shared_words=3)
    }
    instructions: Mapping[str, str] = {
        "": (
            "Below is a post from an online forum. Write one reply that its readers would find useful or fun. Stay "
            "on the topic, be brief, and write nothing but the reply.\n\n{source}"
        )
    }

    def __init__(self, spec: SocialRepliesSpec, device: str = "cpu") -> None:
        self._social_spec = spec
        super().__init__(spec, device)

    def read(self, path: str, key: str) -> list[SourceRow]:
        """One row per post, in the order of the file."""
        posts: dict[str, list[SocialReply]] = {}
        for reply in read_replies(data_path(self.name, path, key=key), key=key):
            if self._is_wanted(reply):
                posts.setdefault(reply.parent_id, []).append(reply)
        return [
            SourceRow(
                parent_id,
                replies[0].prompt,
                tuple(RatedText(reply.reply, reply.engagement) for reply in replies),
                frozenset(_thread_key(reply) for reply in replies),
                attribution=_attribution(replies[0]),
            )
            for parent_id, replies in posts.items()
        ]

    def _is_wanted(self, reply: SocialReply) -> bool:
        spec = self._social_spec
        if spec.kind != "any" and reply.kind != spec.kind:
            self.count_left_out(f"replies of another kind than {spec.kind}", 1)
            return False
        if spec.min_engagement is not None and reply.engagement < spec.min_engagement:
            self.count_left_out(f"replies with an engagement below {spec.min_engagement:g}", 1)
            return False
        return True


def read_replies(path: Path, *, key: str = "task.path") -> list[SocialReply]:
    """Replies of any file this task knows: threads where the first line has `replies`, else an export."""
    if ".csv" not in [suffix.lower() for suffix in path.suffixes]:
        _, first = next(islice(read_objects(path, key=key, example=_ANY_LINE), 1))
        if is_thread(first):
            return list(read_threads(path, key=key).replies)
    return read_export(path, key=key)


def _thread_key(reply: SocialReply) -> str:
    """Ids of threads repeat from site to site; their addresses do not."""
    return f"thread:{reply.url if reply.kind and reply.url else reply.thread_id}"


def _attribution(reply: SocialReply) -> dict[str, str]:
    return {name: value for name, value in (("url", reply.url), ("licence", reply.licence)) if value}
