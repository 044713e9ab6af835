"""The embedded base model: 0.86 M parameters that polyray trains itself, so that nothing must be downloaded.

A Qwen3 model with a vocabulary of single characters. It learns to read the board of the hidden-trap grid from
paths with at most one turn between any two cells but the held-out pairs. Other ways to a goal, and the
teacher's mistakes, come with SFT. A base trained on uniformly drawn shortest paths would execute them all
equally well: nothing would favour one way over another, and diversity would hardly fall under plain GRPO
either (measured). Built by polyray pretrain into a content-addressed directory; `find_embedded` is what
`model.path: embedded` resolves to.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from polyray.config.learner import LearnerSpec
from polyray.config.run import PretrainConfig
from polyray.data.packing import collate
from polyray.data.token_rows import TokenRow
from polyray.learner.optim import build_optimizer, build_scheduler
from polyray.learner.supervised import supervised_step
from polyray.models.base_files import EMBEDDED_POINTER, MANIFEST
from polyray.tasks.base import indexed_rng
from polyray.tasks.hidden_trap_grid import (
    MAX_MOVES,
    NUM_CELLS,
    NUM_MAPS,
    cell_name,
    shortest_moves,
    split_pairs,
)

CODE_VERSION = 1
"""Part of the content address: raise it when this file builds another model from the same configuration."""

ARCHITECTURE = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "intermediate_size": 384,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
}
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
CHARACTERS = "0123456789|abcdefgh>=UDLR"
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


Progress = Callable[[int, int, float], None]
"""(steps done, steps in all, loss in nats per token)."""


def embedded_dir(config: PretrainConfig) -> Path:
    """Directory of this configuration's model, named by everything that determines its weights."""
    determines = {
        "architecture": ARCHITECTURE,
        "characters": CHARACTERS,
        "code_version": CODE_VERSION,
        "num_held_out_pairs": config.task.num_held_out_pairs,
        **config.model_dump(include={"steps", "batch_rows", "learning_rate", "num_threads", "seed"}),
    }
    digest = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()
    return Path(config.cache_dir) / "models" / f"embedded-{digest[:16]}"


def build_embedded(config: PretrainConfig, on_progress: Progress | None = None) -> Path:
    """Trains the model, or finds it built; returns its directory and makes `find_embedded` point there.

    Deterministic for a given number of threads on one type of machine.
    """
    directory = embedded_dir(config)
    directory.parent.mkdir(parents=True, exist_ok=True)
    if not (directory / MANIFEST).is_file():
        with _torch_settings(config):
            model = _train(config, on_progress)
        _save(model, directory)
    _write_text(directory.parent / EMBEDDED_POINTER, json.dumps({"directory": directory.name}))
    return directory


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, BOS in front of a text; unknown characters are refused, not dropped."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *CHARACTERS))}
    backend = Tokenizer(models.WordLevel(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="right",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@functools.cache
def pretraining_pairs(num_held_out: int) -> tuple[tuple[int, int], ...]:
    """All (start, goal) within reach, the task's training pairs among them (a fifth), its held-out pairs not."""
    held_out = frozenset(split_pairs(num_held_out)[1])
    return tuple(
        (start, goal)
        for start in range(NUM_CELLS)
        for goal in range(NUM_CELLS)
        if (start, goal) not in held_out and 1 <= len("".join(shortest_moves(start, goal))) <= MAX_MOVES
    )


def pretraining_text(index: int, seed: int, num_held_out: int) -> tuple[str, str]:
    """(prompt, answer) number `index`: straight to the goal's column, then to its row, or the reverse."""
    rng = indexed_rng("pretraining", seed, index)
    start, goal = rng.choice(pretraining_pairs(num_held_out))
    horizontal, vertical = shortest_moves(start, goal)
    moves = horizontal + vertical if rng.random() < 0.5 else vertical + horizontal
    return f"{rng.randrange(NUM_MAPS):02d}|{cell_name(start)}>{cell_name(goal)}=", moves


def _train(config: PretrainConfig, on_progress: Progress | None) -> Qwen3ForCausalLM:
    tokenizer = build_tokenizer()
    ids = tokenizer.get_vocab()
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(ids),
            pad_token_id=ids["<pad>"],
            bos_token_id=ids["<bos>"],
            eos_token_id=ids["<eos>"],
            **ARCHITECTURE,
        )
    ).train()
    spec = LearnerSpec(
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=20,
        final_lr_share=0.05,
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    optimizer = build_optimizer(model.parameters(), spec)
    scheduler = build_scheduler(optimizer, spec)
    for step in range(config.steps):
        rows = [_row(step * config.batch_rows + offset, config, ids) for offset in range(config.batch_rows)]
        metrics = supervised_step(
            model,
            optimizer,
            scheduler,
            [collate(rows, ids["<pad>"])],
            num_tokens_total=sum(row.num_targets for row in rows),
            max_grad_norm=spec.max_grad_norm,
        )
        if on_progress is not None:
            on_progress(step + 1, config.steps, metrics["loss"])
    return model.eval()


def _row(index: int, config: PretrainConfig, ids: dict[str, int]) -> TokenRow:
    prompt, answer = pretraining_text(index, config.seed, config.task.num_held_out_pairs)
    tokens = [ids["<bos>"], *(ids[char] for char in prompt + answer), ids["<eos>"]]
    return TokenRow(tuple(tokens), response_start=1 + len(prompt))


@contextmanager
def _torch_settings(config: PretrainConfig) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _save(model: Qwen3ForCausalLM, directory: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
    model.save_pretrained(temporary)
    build_tokenizer().save_pretrained(temporary)
    _write_text(
        temporary / MANIFEST,
        json.dumps({"code_version": CODE_VERSION, "num_parameters": model.num_parameters()}),
    )
    temporary.chmod(0o755)
    # A directory with the final name and without a manifest is no model. Another process may have finished first.
    if directory.exists() and not (directory / MANIFEST).is_file():
        shutil.rmtree(directory)
    if directory.exists():
        shutil.rmtree(temporary)
    else:
        temporary.rename(directory)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
