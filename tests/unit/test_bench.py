"""The benchmark's protocols, as BASELINES defines them, and what is counted."""

from __future__ import annotations

import itertools
import json
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptd.bench import gate, gate_page, sets, streams
from adaptd.bench.apart import Apart, PeerFailed
from adaptd.bench.overload import Clients, Line
from adaptd.bench.page import page
from adaptd.bench.peers import Inputs, Neighbours
from adaptd.bench.plan import Run
from adaptd.bench.report import made, pictures, table
from tests.unit.socketdouble import SocketDouble

LABELS = [f"label {i % 6}" for i in range(120)]


def test_experiences_hold_each_row_once_in_the_protocols_order() -> None:
    stream = streams.class_incremental(LABELS, LABELS[:30], per=2, seed=3)
    names = sorted(set(LABELS))
    assert stream.classes == tuple(names[c] for c in np.random.RandomState(3).permutation(6))
    assert sorted(np.concatenate(stream.experiences).tolist()) == list(range(120))
    for e, rows in enumerate(stream.experiences):
        mine = np.flatnonzero(np.isin(LABELS, stream.classes[2 * e:2 * e + 2]))
        assert rows.tolist() == mine[np.random.RandomState(3000 + e).permutation(40)].tolist()


def test_tests_are_restricted_to_the_classes_seen() -> None:
    stream = streams.class_incremental(LABELS, [*LABELS[:30], "never trained"], per=2, seed=0)
    assert [len(stream.tests_until(e)) for e in range(3)] == [10, 20, 30]
    assert len(stream.tests(1)) == 10


def test_leftover_classes_belong_to_no_experience() -> None:
    stream = streams.class_incremental(LABELS, LABELS, per=4, seed=0)
    assert len(stream.experiences) == 1 and len(stream.tests_until(0)) == 80


def test_few_shots_are_of_the_last_experience_alone() -> None:
    stream = streams.class_incremental(LABELS, [], per=2, seed=1)
    few = streams.few_shots(stream, 1)
    assert {n: len(rows) for n, rows in few.items()} == {1: 2, 5: 10, 20: 40}
    assert {LABELS[row] for rows in few.values() for row in rows} == set(stream.classes[4:])


def test_accuracy_and_forgetting() -> None:
    accuracies = streams.Accuracies([2, 2])
    accuracies.record(0, 0, np.array([True, True]))
    accuracies.record(1, 0, np.array([True, False]))
    accuracies.record(1, 1, np.array([True, True]))
    assert accuracies.figures() == {"final": 75.0, "average": 87.5, "forgetting": 50.0}


def test_what_was_not_measured_is_not_guessed() -> None:
    accuracies = streams.Accuracies([1, 1, 1])
    accuracies.record(0, 0, np.array([True]))
    for j in range(3):
        accuracies.record(2, j, np.array([j > 0]))
    figures = accuracies.figures()
    assert figures["final"] == pytest.approx(200 / 3) and np.isnan(figures["average"]) and figures["forgetting"] == 100.0


def test_the_swap_moves_ten_labels_from_the_middle_on() -> None:
    true, given, drift = drifted("swap")
    assert drift.begins == 200 and (given[:200] == true[:200]).all()
    late, moved = given[200:], true[200:] < 10
    assert (late[moved] == (true[200:][moved] + 1) % 10).all() and (late[~moved] == true[200:][~moved]).all()
    assert drift.figures(np.ones(400, dtype=bool))["swapped 0-1k"] == 100.0


def test_other_drifts_change_what_they_say_and_nothing_else() -> None:
    for kind in streams.DRIFTS:
        true, given, drift = drifted(kind)
        assert (given[true >= 10] == true[true >= 10]).all() and (drift.drifting == (true < 10)).all()
    true, given, _ = drifted("merge")
    assert (given[:200] == true[:200]).all() and (given[200:] == np.where(true < 10, true - true % 2, true)[200:]).all()
    true, given, _ = drifted("split")
    assert (given[200:] == true[200:]).all() and (given[:200] == np.where(true < 10, true - true % 2, true)[:200]).all()
    true, given, drift = drifted("recurring")
    changed = given != true
    assert drift.begins == 100 and (changed == ((true < 10) & (np.arange(400) // 100 % 2 == 1))).all()
    true, given, _ = drifted("gradual")
    assert (given[:200] == true[:200]).all() and 0 < (given != true).sum() < (true[200:] < 10).sum()
    true, given, _ = drifted("rename")
    assert (given[200:][true[200:] < 10] == -1).all() and (given[:200] == true[:200]).all()
    assert (drifted("none")[1] == drifted("none")[0]).all()


def drifted(kind: streams.Drift) -> tuple[streams.Ints, streams.Ints, streams.LabelDrift]:
    """Return the classes of a stream's events, what they are called (a class's number, -1: a new name), and the stream."""
    stream = streams.class_incremental([f"{i % 20:02}" for i in range(400)], [], per=5, seed=0)
    drift = streams.label_drift(stream, 0, 400, kind)
    number = {name: place for place, name in enumerate(stream.classes)}
    return stream.train[drift.rows], np.array([number.get(label, -1) for label in drift.labels]), drift


def test_no_change_repeats_the_label_before() -> None:
    assert streams.no_change(["a", "a", "b", "b"]).tolist() == [False, True, False, True]


def test_quarters() -> None:
    assert streams.over_time(np.array([True, True, False, True]))["quarter 3"] == 0.0


@pytest.mark.parametrize("peer", ["cron", "nearest-mean", "nearest-neighbours", "streaming-lda", "er-ace"])
def test_peers_learn_what_is_easy(peer: str) -> None:
    random = np.random.RandomState(0)
    classes = np.repeat(np.arange(3), 40)
    vectors = (np.eye(8)[classes] + 0.1 * random.randn(120, 8)).astype(np.float32)
    inputs = Inputs(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), [""] * 120)
    with Apart(peer, 400) as one:
        assert (one.predict(inputs) == -1).all()
        for rows in streams.blocks(np.tile(random.permutation(120), 12), 15):
            one.learn(inputs.take(rows), classes[rows])
        assert (one.predict(inputs) == classes).mean() > 0.95
        assert one.cpu_s > 0


def test_a_peer_that_ends_is_told() -> None:
    with pytest.raises(PeerFailed, match=r"cron ended with -9"), Apart("cron") as one:
        one._process.kill()
        one.refit()


def test_neighbours_with_recency_prefer_the_newer_label() -> None:
    inputs = Inputs(np.ones((1, 4), dtype=np.float32) / 2, [""])
    peer = Neighbours(50, half_life=2.0)
    for label in (0, 0, 0, 1, 1):
        peer.learn(inputs, np.array([label]))
    assert peer.predict(inputs).tolist() == [1]


@pytest.mark.parametrize("name, text", [
    ("a.csv", "time,text,label\n2024-02-01,b,y\n2024-01-01,a,x\n"),
    ("a.json", '[{"text": "a", "id": 1, "queue": "x", "annotator": 1}, {"text": "b", "id": 2, "queue": "y", "annotator": 1}]'),
    ("a.jsonl", '{"ts": 20, "text": "b", "label": "y"}\n\n{"ts": 3, "text": "a", "label": "x"}\n'),
])
def test_a_users_file_is_read_in_the_order_of_time(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    rows = sets.read_file(tmp_path / name).in_time()
    assert (rows.texts, rows.labels) == (["a", "b"], ["x", "y"])


@pytest.mark.parametrize("name, text, words", [
    ("a.csv", "text,topic\na,b\n", "label"), ("a.jsonl", "{\n", "a.jsonl:1"), ("a.jsonl", "3\n", "not a JSON object"),
    ("a.csv", "text,label\n", "no rows"), ("a.xls", "", ".xls"),
])
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(sets.BadData, match=words):
        sets.read_file(tmp_path / name)


def test_a_set_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no set 'nope'"):
        sets.load("nope", tmp_path)
    with pytest.raises(Exception, match="no data sets"):
        sets.data_folder(tmp_path / "missing")


def test_the_page_has_means_over_seeds() -> None:
    result = {"part": "class-incremental", "set": "s", "adapt": False, "quick": False, "last_only": False,
              "machine": {"cpu": "c", "cores": 2}, "versions": {"python": "3"}}
    results = [{**result, "seed": seed, "name": f"class-incremental-s-seed{seed}-no-adapt",
                "rows": [{"method": "adaptd", "final": final, "note": None}]}
               for seed, final in ((0, 95.0), (1, 96.0))]
    text = page(json.loads(json.dumps(results)), table, ["benchmarks/class-incremental-s-seed0-no-adapt.png"])
    assert "| adaptd | 95.50 | - |" in text and "mean of seeds 0, 1" in text and "no-adapt.png" in text
    assert "## Speed" not in text


def test_the_page_of_the_documentation_is_what_the_kept_results_give() -> None:
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "benchmarks.md").read_text(encoding="utf-8") == made(docs / "benchmarks")


@pytest.mark.parametrize("accuracy, difference", [(0.7, -0.03), (0.9, 0.0), (0.97, 0.03)])
def test_the_simulated_truth_is_the_truth_that_is_stated(accuracy: float, difference: float) -> None:
    world = gate.World(accuracy)
    candidate = world.candidate(difference)
    cells = world.cells(candidate)
    assert world.shares @ world.champion == pytest.approx(accuracy)
    assert world.shares @ (cells[:, 0] + cells[:, 1]) == pytest.approx(accuracy + difference, abs=1e-4)
    assert world.shares @ (cells[:, 0] + cells[:, 2]) == pytest.approx(accuracy, abs=1e-4)
    drawn = list(gate._draws(world, cells, 2000, 50, np.random.default_rng(0)))
    won = np.mean([np.mean(one.candidate) - np.mean(one.champion) for one in drawn])
    assert won == pytest.approx(difference, abs=0.004)


def test_the_gates_page_states_what_the_results_hold(tmp_path: Path) -> None:
    cells = [{"accuracy": accuracy, "held-out rows": rows, "points": points, "promote": 50.0 + points, "reject": 1.0,
              "undecided": 49.0 - points, "trials": 1000, "differ": 3.0}
             for accuracy in (70, 90) for rows in (100, 1000) for points in gate.POINTS]
    lines = [gate._line(cells, accuracy, 1000) for accuracy in (0.7, 0.9)]
    result = {"part": "gate", "seed": 0, "quick": False}
    results = {"power": {**result, "set": "power", "cells": cells, "rows": lines},
               "month": {**result, "set": "month", "rows": [{"comes": "daily"}]},
               "lost-class": {**result, "set": "lost-class", "rows": [{"held-out rows": 100}]}}
    text = gate_page.page(results)
    assert "with 1,000 rows: 51 % at an accuracy of 70, 51 % at an accuracy of 90" in text
    assert "the largest of the 12 rates at -1 or below is 49.0 (45.9-52.1)" in text
    assert [file.name for file in pictures(results.values(), tmp_path)] == ["gate-power.png"]


def test_a_month_in_which_tries_are_counted_has_fewer_errors() -> None:
    plan = gate.Plan(tries=40, start=300, growth=100, share=1.0)
    errors = [sum(bool(gate._one_month(plan, True, counted, np.random.default_rng(month))) for month in range(12))
              for counted in (True, False)]
    assert errors[0] < errors[1]


def test_a_run_of_the_gate_says_how_long_it_takes() -> None:
    runs = [Run(part="gate", set=name, seed=0, adapt=False, quick=quick) for name in ("power", "lost-class", "month")
            for quick in (True, False)]
    assert all(gate.expected_s(quick) < gate.expected_s(full) for quick, full in zip(runs[::2], runs[1::2], strict=True))


def test_clients_of_an_overload_ask_on_their_timetable_and_time_what_was_accepted(tmp_path: Path) -> None:
    enough, asked = threading.Event(), itertools.count()

    def answer(method: str, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        number = next(asked)
        if number == 7:
            enough.set()
        return (200, {"inputs": body}, {}) if number % 2 else (429, {}, {})

    def ask(line: Line, number: int) -> int:
        return line.exchange("POST", "/v1", {"n": number})

    with closing(SocketDouble(tmp_path / "s", answer)), Clients(tmp_path / "s", ask, 2, 0.01).asking() as clients:
        assert enough.wait(30)
    assert set(clients.told) == {200, 429}
    assert len(clients.took) == clients.told[200] and clients.ms(99) >= 0
