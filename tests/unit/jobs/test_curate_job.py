"""`polyray curate data` from command line to files: outputs, reviews, tokens, best N."""

from __future__ import annotations

import csv
import json
import random
import re
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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("filters.language.keep=[zz]", "'zz'"),
        ("model.path=./no-such-base", "no-such-base"),
        ("select={count: 3, encoder: ./no-such-encoder}", "no-such-encoder"),
    ],
)
@pytest.mark.parametrize("option", [[], ["--check"]])
def test_missing_tool_is_named_before_the_curation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, message: str, option: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        main(["data", str(CONFIGS / "export.yaml"), "runs_dir=runs", override, *option])
    assert not (tmp_path / "runs").exists()


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
def test_builtin_set_is_split_without_overlap(tmp_path: Path, config: str) -> None:
    run = curate(tmp_path, "source.path=builtin", config=config)
    records = read_records(run)
    assert len(records) == 36
    places = {(r.cluster_id, r.part, r.phase) for r in records if isinstance(r, EngagementRecord)}
    assert len(places) == len({r.cluster_id for r in records}) == 12
    training, _ = read_demonstrations(JsonlDataSpec(train=str(run / "sft.jsonl")))
    prompts = {row.prompt.text for row in read_prompts(run / "rl.jsonl")}
    held_out = {row.prompt.text for row in read_prompts(run / "rl_held_out.jsonl")}
    assert training and prompts and held_out
    assert not {item.prompt.text for item in training} & prompts and not prompts & held_out


def test_outputs_agree_and_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows, found = export_rows(), []
    path = run = tmp_path / "export.jsonl"
    for seed in range(2):
        random.Random(seed).shuffle(rows)
        write(path, rows)
        run = curate(tmp_path / str(seed), f"source.path={path}", "filters.min_words=3", "source.origin=mine")
        found.append(outputs(run))
        config = json.loads(found[-1].pop("config.json"))
        assert config["source"]["path"] == str(path)
    assert found[0] == found[1] and len(found[0]) >= 10
    statistics = json.loads((run / "statistics.json").read_text())
    assert json.loads((run / "report.json").read_text())["statistics"] == statistics
    assert statistics["source"]["records"] == 82 and statistics["dropped"] == {"exact duplicate": 1}
    kept = json.loads((run / "DONE").read_text())["kept"]
    assert statistics["kept"] == kept == len(read_records(run)) == 81
    body = (run / "report.html").read_text().split("</head>")[1]
    assert EVIL.split()[0] not in body and not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", body)
    with (run / "review.csv").open(encoding="utf-8-sig", newline="") as file:
        reviewed = list(csv.DictReader(file))
    assert [row["reason"].split(":")[0] for row in reviewed].count("kept") == 81
    assert reviewed[-1]["reason"].startswith("exact duplicate: of mine/") and len(reviewed) == 82


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
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        curate(tmp_path, f"source.path={tmp_path}/nowhere.csv")
    assert not (tmp_path / "runs").exists(), "a wrong path leaves the name free"
    path = write(tmp_path / "export.jsonl", export_rows()[:60])
    run = curate(tmp_path, f"source.path={path}")
    assert json.loads((run / "DONE").read_text())["kept"] == 60
    write(path, export_rows())
    curate(tmp_path, f"source.path={path}")
    assert json.loads((run / "DONE").read_text())["kept"] == 81
    with pytest.raises(ConfigError, match=r"filters\.min_words: 3 -> 4"):
        curate(tmp_path, f"source.path={path}", "filters.min_words=4")


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
def test_mistake_on_the_command_line_is_named(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=message):
        main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "file", "records", "dropped"),
    [
        ("stack_exchange", "history_meta_se_threads", 6635,
         {"too long": 164, "links": 74, "too short": 23, "flagged words": 6, "near duplicate": 5,
          "exact duplicate": 4}),
        ("upworthy", "upworthy_exploratory", 15377, {"near duplicate": 197, "exact duplicate": 15}),
    ],
)  # fmt: skip
def test_curation_of_real_data_is_balanced(
    tmp_path: Path, source: str, file: str, records: int, dropped: dict[str, int]
) -> None:
    path = shared_data(f"social/{file}.jsonl.gz")
    run = curate(tmp_path, f"source.path={path}", config=f"{source}.yaml")
    statistics = json.loads((run / "statistics.json").read_text())
    assert statistics["source"]["records"] == records
    assert statistics["dropped"] == dropped
    for name, group in statistics["balance"]["groups"].items():
        assert group["kolmogorov_smirnov"] < 0.05, name
