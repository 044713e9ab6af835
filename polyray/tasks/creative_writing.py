"""Creative writing: stories to prompts, and NoveltyBench's questions with more than one good answer.

Data: HANNA, NoveltyBench, ROCStories, prompts of the user's own, or a built-in dozen (polyray/data/stories.py).
Only stories by people are demonstrations and references. NoveltyBench has none: name it as `test_path`, and
train or fix thresholds on another file. The form of the prompt determines the question and the length of an
answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from polyray.config.text_tasks import CreativeWritingSpec
from polyray.data.sources import data_path
from polyray.data.stories import read_writing_prompts
from polyray.tasks.text_quality import QualityProfile
from polyray.tasks.text_task import RatedText, SourceRow, TextTask


class CreativeWriting(TextTask):
    """Stories; see the module docstring."""

    name = "creative_writing"
    profiles: Mapping[str, QualityProfile] = {
        "as_it_is": QualityProfile(
            length_band=(0, 1, 600, 2500),
            enough_shared_words=1,
            relevance_weight=0.3,
            vocabulary_weight=0.7,
            ending_weight=0.0,
        ),
        "story": QualityProfile(length_band=(0, 80, 900, 2500), enough_shared_words=4),
        "title": QualityProfile(length_band=(0, 25, 80, 200), enough_shared_words=1),
    }
    instructions: Mapping[str, str] = {
        "as_it_is": "{source}",
        "story": "Write a short story for this prompt. Write nothing but the story.\n\n{source}",
        "title": "Write a story of five sentences with this title. Write nothing but the story.\n\n{source}",
    }

    def __init__(self, spec: CreativeWritingSpec, device: str = "cpu") -> None:
        super().__init__(spec, device)

    def read(self, path: str, key: str) -> list[SourceRow]:
        """One row per prompt, in the order of the file."""
        return [
            SourceRow(
                item.prompt_id,
                item.prompt,
                tuple(RatedText(text) for text in item.human_stories),
                form=item.form,
            )
            for item in read_writing_prompts(data_path(self.name, path, key=key), key=key)
        ]
