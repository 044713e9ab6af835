"""The tokenizer of a base: the same as transformers' own choice, and without torch where that can be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from polyray.config.model import ModelSpec
from polyray.errors import ConfigError
from polyray.learner.embedded import build_tokenizer
from polyray.models.base_files import resolve_model_dir
from polyray.models.tokenizer import load_tokenizer

PROGRAM = """
import sys
from pathlib import Path
from polyray.models.tokenizer import load_tokenizer
load_tokenizer(Path(sys.argv[1]))
print("torch" in sys.modules)
"""


@pytest.fixture(params=["embedded", "smollm2"])
def model_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "smollm2":
        cache = request.getfixturevalue("smollm2_cache")
        return resolve_model_dir(ModelSpec(path="smollm2", cache_dir=str(cache)))
    build_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_generic_tokenizer_is_the_one_of_transformers(model_dir: Path) -> None:
    ours, chosen = load_tokenizer(model_dir), AutoTokenizer.from_pretrained(model_dir)
    assert type(ours) is type(chosen)
    assert ours.get_vocab() == chosen.get_vocab()
    text = chosen.decode(range(len(chosen)))
    assert ours.encode(text) == chosen.encode(text)
    assert ours.chat_template == chosen.chat_template
    assert ours.special_tokens_map == chosen.special_tokens_map


def test_generic_tokenizer_comes_without_torch(model_dir: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(model_dir)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_broken_settings_are_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"the tokenizer of {tmp_path} cannot be loaded"):
        load_tokenizer(tmp_path)
