"""jobs.curate data from command line to files: outputs, reviews, the same bytes in any order, tokens, best N."""

from __future__ import annotations

import csv
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyray.cli.curate import main
from polyray.config.supervised import JsonlDataSpec
from polyray.data.records import read_demonstrations
from polyray.errors import ConfigError, DataError
from polyray.shelf.preferences.engagement import EngagementRecord, read_records
from polyray.tasks.jsonl import read_prompts
from tests.data_sets import shared_data

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "curate"
EVIL = "<script>alert(\"x\")</script> =1+1 & 'more' words"
NOT_REPEATED = ("DONE", "cost.json", ".lock")
"""What a run leaves behind that another run of the same data has differently."""


def export_rows() -> list[dict[str, Any]]:
    rng = random.Random(0)
    rows = []
    for post in range(20):
        for _ in range(4):
            text = " ".join(
                f"{rng.choice(['cat', 'dog', 'bird', 'tree'])}{rng.randrange(900)}" for _ in range(7)
            )
            rows.append(
                {"prompt": f"Post {post} about {post * 37}?", "reply": text, "likes": rng.randrange(30)}
            )
    return [*rows, {"prompt": "Post 3 about 111?", "reply": EVIL, "likes": 3}, {**rows[5], "likes": 99}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def curate(tmp_path: Path, *overrides: str, name: str = "run", config: str = "export.yaml") -> Path:
    arguments = [str(CONFIGS / config), f"runs_dir={tmp_path / 'runs'}", f"name={name}", *overrides]
    assert main(["data", *arguments]) == 0
    return tmp_path / "runs" / name


def outputs(run: Path) -> dict[str, bytes]:
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in NOT_REPEATED]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def edit(review: Path, decisions: dict[str, tuple[str, str]]) -> None:
    """Edit rows of a review file like a spreadsheet does."""
    with review.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with review.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter=";")
        writer.writeheader()
        for row in rows:
            decision, note = decisions.get(row["record_id"], (row["decision"], row["note"]))
            writer.writerow({**row, "decision": decision, "note": note})


@pytest.mark.parametrize("config", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_the_builtin_sets_offline(tmp_path: Path, config: str) -> None:
    run = curate(tmp_path, config=config)
    records = read_records(run)
    assert len(records) == 36
    places = {(r.cluster_id, r.part, r.phase) for r in records if isinstance(r, EngagementRecord)}
    assert len(places) == len({r.cluster_id for r in records}) == 12
    training, _ = read_demonstrations(JsonlDataSpec(train=str(run / "sft.jsonl")))
    prompts = {row.prompt.text for row in read_prompts(run / "rl.jsonl")}
    held_out = {row.prompt.text for row in read_prompts(run / "rl_held_out.jsonl")}
    assert training and prompts and held_out
    assert not {item.prompt.text for item in training} & prompts and not prompts & held_out


def test_outputs_and_numbers_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "export.jsonl", export_rows())
    run = curate(tmp_path, f"source.path={path}", "filters.min_words=3", "source.origin=mine")
    report = json.loads((run / "report.json").read_text())
    statistics = json.loads((run / "statistics.json").read_text())
    assert report["statistics"] == statistics
    assert statistics["source"]["records"] == 82
    assert statistics["dropped"] == {"exact duplicate": 1}
    assert statistics["kept"] == len(read_records(run)) == 81
    done = json.loads((run / "DONE").read_text())
    assert done["kept"] == 81
    page = (run / "report.html").read_text()
    assert EVIL.split()[0] not in page.split("</head>")[1]
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page.split("</head>")[1])
    with (run / "review.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 82
    assert [row["reason"].split(":")[0] for row in rows].count("kept") == 81
    assert rows[-1]["reason"].startswith("exact duplicate: of mine/")


def test_the_same_bytes_in_any_order_of_the_rows(tmp_path: Path) -> None:
    rows = export_rows()
    path = tmp_path / "export.jsonl"
    found = []
    for seed in range(2):
        random.Random(seed).shuffle(rows)
        write(path, rows)
        found.append(outputs(curate(tmp_path / str(seed), f"source.path={path}")))
    first, second = found
    config = [json.loads(files.pop("config.json")) for files in (first, second)]
    assert first == second and len(first) >= 11
    assert {**config[0], "runs_dir": ""} == {**config[1], "runs_dir": ""}


def test_review_decisions_are_applied_by_the_next_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "export.jsonl", export_rows())
    run = curate(tmp_path, f"source.path={path}")
    before = outputs(run)
    capsys.readouterr()
    curate(tmp_path, f"source.path={path}")
    assert "kept" not in capsys.readouterr().out  # finished: it only says where things are
    with (run / "review.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    dropped, kept = rows[-1]["record_id"], rows[0]["record_id"]
    edit(run / "review.csv", {dropped: ("keep", "=SUM(1)"), kept: ("DROP", "dull; really"), "x": ("", "")})
    curate(tmp_path, f"source.path={path}")
    assert re.search("curated again: .*review", capsys.readouterr().out)
    ids = {record.record_id for record in read_records(run) if isinstance(record, EngagementRecord)}
    assert dropped in ids and kept not in ids and len(ids) == 81
    again = outputs(run)
    text = again["review.csv"].decode("utf-8-sig")
    assert f"{dropped},keep,'=SUM(1)," in text and f"{kept},drop,dull; really,review: dull; really" in text
    curate(tmp_path, f"source.path={path}")
    assert outputs(run) == again != before
    assert "curated again" not in capsys.readouterr().out
    other = curate(tmp_path, f"source.path={path}", f"review={run / 'review.csv'}", name="other")
    assert outputs(other)["data/train.jsonl"] == again["data/train.jsonl"]
    edit(other / "review.csv", {dropped: ("drop", "")})
    with pytest.raises(ConfigError, match=r"review\.csv:\d+ .* review="):
        curate(tmp_path, f"source.path={path}", f"review={run / 'review.csv'}", name="other")
    (run / "review.csv").write_text("record_id,decision\nnobody,keep\n")
    with pytest.raises(DataError, match=r"review\.csv:2: .*'nobody'"):
        curate(tmp_path, f"source.path={path}")


def test_new_data_is_curated_again_and_another_configuration_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "export.jsonl", export_rows()[:60])
    run = curate(tmp_path, f"source.path={path}")
    assert json.loads((run / "DONE").read_text())["kept"] == 60
    write(path, export_rows())
    curate(tmp_path, f"source.path={path}")
    assert json.loads((run / "DONE").read_text())["kept"] == 81
    with pytest.raises(ConfigError, match=r"filters\.min_words: 3 -> 4"):
        curate(tmp_path, f"source.path={path}", "filters.min_words=4")


def test_tokens_of_a_model_and_the_best_that_differ(tmp_path: Path) -> None:
    from polyray.learner.embedded import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2"}')
    letters = ["RRRRRRUU", "DDDDLLLL", "0123456789", "abcdefgh", "U|U|U|U|U"]
    rows = [
        {"prompt": f"{post}{post}|{post}", "reply": f"{letters[(post + at) % 5]}{post}{at}", "likes": at}
        for post in range(10)
        for at in range(3)
    ]
    run = curate(
        tmp_path,
        f"source.path={write(tmp_path / 'e.jsonl', rows)}",
        "filters={}",
        "rows.instruction='{source}'",
        f"model={{path: {tmp_path / 'model'}, max_tokens: 17, too_long: drop}}",
        "select={count: 12, min_distance: 0.05, max_per_prompt: 2}",
    )
    statistics = json.loads((run / "statistics.json").read_text())
    tokens, selection = statistics["tokens"], statistics["selection"]
    assert (tokens["prompt"]["q0"], tokens["prompt"]["q100"]) == (5, 5)  # BOS and four characters
    assert tokens["above"] == statistics["dropped"]["too many tokens"] > 0
    assert selection["chosen"]["records"] == statistics["kept"] <= 12
    assert selection["chosen"]["mean_nearest_distance"] >= 0.05
    assert "Diversity of the chosen" in (run / "report.html").read_text()


def test_check_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from jobs.curate import main; "
        "main(['data', 'configs/curate/stack_exchange.yaml', '--check']); "
        "print({'torch', 'ray', 'datasets', 'plotly', 'pandas', 'py3langid', 'datasketch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n"), done.stdout[-200:]
    derived = json.loads(done.stdout[: done.stdout.rindex("}") + 1])["derived"]
    assert (derived["records"], derived["clusters"], derived["reviewed"]) == (36, 12, 0)


def test_a_wrong_path_leaves_the_name_free(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        curate(tmp_path, f"source.path={tmp_path}/nowhere.csv")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "subcommand"),
        (["selection"], "'selection'; known: data"),
        (["data"], "CONFIG"),
        (["data", "configs/curate/export.yaml", "filter.min_words=3"], "did you mean 'filters'"),
        (["data", "configs/curate/export.yaml", "source.colums={}"], "did you mean 'source.columns'"),
        (["data", "configs/curate/export.yaml", "source.type=csv"], "source"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=message):
        main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "records", "dropped"),
    [
        (
            "stack_exchange",
            6635,
            {
                "too long": 164,
                "links": 74,
                "too short": 23,
                "flagged words": 6,
                "near duplicate": 5,
                "exact duplicate": 4,
            },
        ),
        ("upworthy", 15377, {"near duplicate": 197, "exact duplicate": 15}),
    ],
)
def test_the_real_sets(tmp_path: Path, source: str, records: int, dropped: dict[str, int]) -> None:
    files = {
        "stack_exchange": "social/history_meta_se_threads.jsonl.gz",
        "upworthy": "social/upworthy_exploratory.jsonl.gz",
    }
    path = shared_data(files[source])
    run = curate(tmp_path, f"source.path={path}", config=f"{source}.yaml")
    statistics = json.loads((run / "statistics.json").read_text())
    assert statistics["source"]["records"] == records
    assert statistics["dropped"] == dropped
    for name, group in statistics["balance"]["groups"].items():
        assert group["kolmogorov_smirnov"] < 0.05, name
