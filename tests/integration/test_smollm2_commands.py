"""Every command on a real instruct model, as people call them: quickstart (SFT, RL, evaluation), export, analyses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from polyray.config.model import ModelSpec
from polyray.models.base_files import local_model_dir
from tests.conftest import REPOSITORY_ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # four commands, the first with four runs


@pytest.fixture(scope="module")
def work(smollm2_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the finished quickstart of the shipped files, but for their sizes."""
    work = tmp_path_factory.mktemp("smollm2-commands")
    sft = _smaller(work, "configs/sft/smollm2.yaml", smollm2_cache, learner={"steps": 2})
    evaluate = _smaller(
        work, "configs/evaluate/smollm2.yaml", smollm2_cache, evaluation={"num_prompts": 2, "ks": [1, 8]}
    )
    arms = f"[learner.steps=2, learner.num_threads=1, rollout.threads_per_worker=1, model.cache_dir={smollm2_cache}]"
    changes = (f"runs_dir={work / 'runs'}", f"sft={sft}", f"evaluate={evaluate}", f"overrides={arms}")
    _polyray("quickstart", "configs/quickstart_smollm2.yaml", *changes)
    return work


def _smaller(work: Path, shipped: str, cache: Path, **sections: dict[str, Any]) -> Path:
    """A shipped file with other values, on one thread."""
    values = yaml.safe_load((REPOSITORY_ROOT / shipped).read_text(encoding="utf-8"))
    values["model"]["cache_dir"] = str(cache)
    for name, section in sections.items():
        values[name] |= section
    file = work / f"{Path(shipped).parent.name}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def _polyray(*arguments: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "polyray.cli", *arguments],
        cwd=REPOSITORY_ROOT,
        env={**kept, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def _run(work: Path, part: str) -> Path:
    (found,) = (work / "runs" / "smollm2").glob(f"{part}*")
    return found


def test_quickstart_reports_every_arm(work: Path) -> None:
    report = (work / "runs" / "smollm2" / "report.html").read_text(encoding="utf-8")
    for name in ("base", "warm start", "drgrpo", "polychromic", "pass@8"):
        assert name in report, name
    assert "&lt;|im_end|&gt;" not in report and "<|im_end|>" not in report


def test_merged_model_answers_as_base_and_adapter(work: Path, smollm2_cache: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = work / "merged"
    run = _run(work, "polychromic")
    _polyray("export", str(run), "--merged", str(target))
    merged: Any = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    base_dir = str(local_model_dir(ModelSpec(path="smollm2", cache_dir=str(smollm2_cache))))
    base: Any = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    policy = PeftModel.from_pretrained(base, str(run / "adapter"))
    tokenizer = AutoTokenizer.from_pretrained(target)
    messages = [{"role": "user", "content": "Write a sentence with river and clock."}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, policy(**inputs).logits, atol=2e-3, rtol=0)


def test_analyses_read_the_adapters_and_the_evaluation(work: Path) -> None:
    runs = [str(_run(work, name)) for name in ("drgrpo", "polychromic")]
    _polyray("analyze", "lora", *runs, "--out", str(work / "lora"))
    lora = json.loads((work / "lora" / "lora.json").read_text())
    assert len(lora["adapters"]) == 2
    evaluation = str(_run(work, "evaluation"))
    few = ("--prompts", "2", "--samples", "4", "--layers", "0", "15")
    _polyray("analyze", "mechanistic", evaluation, *few, "--out", str(work / "mechanistic"))
    found = json.loads((work / "mechanistic" / "mechanistic.json").read_text())
    assert found["models"] == ["base", "warm start", "drgrpo", "polychromic"]
    heads = {(row["layer"], row["head"]) for row in found["attention"]}
    assert len(heads) == 30 * 9
    assert all(0 <= row["entropy"] <= 1 for row in found["attention"])
