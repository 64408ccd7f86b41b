"""Files of other programs come in through `adaptd ingest` on a real daemon: each row once, bad rows named, good ones taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adaptd.client import Client
from tests.acceptance.daemon import Daemon
from tests.conftest import missing

pytestmark = pytest.mark.acceptance
FORMATS = Path(__file__).parent / "formats"
TICKETS = [("the parcel is late, as ever", "delivery"), ('she said "refund me"', "refund"), ("a text\nof two lines", "delivery"),
           ("Größe stimmt nicht", "exchange")]


def ingest(daemon: Daemon, domain: str, *words: str, code: int = 0) -> tuple[dict[str, int], str]:
    """Run the command; return its counts and what it said."""
    done = subprocess.run([sys.executable, "-m", "adaptd", "ingest", *words, "--json", "--domain", domain, "--config",
                           str(daemon.folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def pandas() -> Any:
    """Return pandas with an engine for Parquet."""
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError:
        missing("pandas with pyarrow (adaptd[dev,parquet])")
    return pandas


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_what_pandas_writes_comes_in_once_and_is_answered(shared: Daemon, domain: str, tmp_path: Path, kind: str) -> None:
    frame = pandas().DataFrame(TICKETS, columns=["body", "queue"])
    frame["sent"] = pandas().to_datetime(["2026-03-01T10:00:00Z"] * len(frame))
    frame["note"] = [None, 1.5, None, float("nan")]
    file = tmp_path / f"tickets.{kind}"
    if kind == "parquet":
        frame.to_parquet(file, row_group_size=2)
    else:
        frame.to_csv(file, index=False, sep="\t" if kind == "tsv" else ",")
    words = (str(file), "--map", "text=body,label=queue", "--map", "time=sent", "--source", "archive")
    assert ingest(shared, domain, *words)[0] == {"accepted": 4, "duplicates": 0, "held": 0, "rejected": 0}
    assert ingest(shared, domain, *words)[0] == {"accepted": 0, "duplicates": 4, "held": 0, "rejected": 0}
    client = Client(shared.folder, domain=domain)
    assert [one.label for one in client.predict([text for text, _ in TICKETS])] == [label for _, label in TICKETS]
    found = client.search("Größe", 1)[0]
    assert (found["text"], found["source"]) == ("Größe stimmt nicht", "archive")


def test_a_label_is_answered_by_what_a_vocabulary_says_of_it(shared: Daemon, domain: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.ttl"
    file.write_text("@prefix s: <http://www.w3.org/2004/02/skos/core#> . @prefix : <http://example.org/> .\n"
                    ':a a s:Concept ; s:notation "delivery" ; s:definition "A parcel is late or has not arrived." .\n'
                    ':b a s:Concept ; s:notation "refund" ; s:prefLabel "Refund" ; s:altLabel "I want my money back" .\n')
    assert ingest(shared, domain, str(file), "--source", "vocabulary")[0]["accepted"] == 3
    assert ingest(shared, domain, str(file), "--source", "vocabulary")[0]["duplicates"] == 3
    answer, = Client(shared.folder, domain=domain).predict("where is the parcel I ordered?", explain=True)
    assert answer.label == "delivery" and {one["source"] for one in answer.evidence} == {"vocabulary"}


def test_bad_rows_of_a_table_are_named_and_the_others_taken(shared: Daemon, domain: str, tmp_path: Path) -> None:
    file = tmp_path / "tickets.csv"
    file.write_bytes(b'text,label,id,time\ngood,a,1,1767225600\nshort,a\n'
                     b'"two\nlines",b,2,\n\xff,a,3,\n"broken" quote,a,4,\n,,5,\n'
                     b"again,c,6,2026-01-01\nlast,b,7,2026-01-01T00:00:00Z\n")
    counts, said = ingest(shared, domain, str(file), code=1)
    assert counts == {"accepted": 3, "duplicates": 0, "held": 0, "rejected": 5}, said
    wrong = {3: "2 cells, but the header has 4", 6: "'text' is not UTF-8", 7: "not CSV", 8: "text", 9: "zone"}
    for where, what in wrong.items():
        assert f"{file}:{where}: " in said and what in said, said


def test_other_spellings_of_tables_are_read(shared: Daemon, domain: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes("\ufefftext;label\r\nGrüße;hallo\r\n".encode())
    assert ingest(shared, domain, str(table))[0]["accepted"] == 1
    frame = pandas().DataFrame({"text": ["one", "two"], "raw": [b"x", None], "time": ["2026-03-01T10:00:00.123456789Z"] * 2})
    frame["time"] = pandas().to_datetime(frame["time"])
    frame["label"] = pandas().Categorical(["a", "b"])
    frame.to_parquet(tmp_path / "t.parquet")
    counts, said = ingest(shared, domain, str(tmp_path / "t.parquet"), code=1)
    assert (counts["accepted"], counts["rejected"]) == (1, 1) and "leave that column out: --map" in said
    words = (str(tmp_path / "t.parquet"), "--map", "text=text,label=label,time=time,id=@row")
    assert ingest(shared, domain, *words)[0]["accepted"] == 2


def test_what_is_no_table_is_said_with_the_cure(shared: Daemon, domain: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("body,queue\nhello,a\n")
    assert "its columns: body, queue" in ingest(shared, domain, str(table), "--map", "text=txt", code=1)[1]
    table.write_text("text,text\nhello,a\n")
    assert "the column 'text' is there twice" in ingest(shared, domain, str(table), code=1)[1]
    table.write_text("text,label\nhello,a\n", encoding="utf-16")
    assert "not UTF-8" in ingest(shared, domain, str(table), code=1)[1]
    table.write_text("")
    assert "there is no header" in ingest(shared, domain, str(table), code=1)[1]
    assert "write FIELD=COLUMN" in ingest(shared, domain, str(table), "--map", "text", code=2)[1]
    assert "standard input is read as JSONL" in ingest(shared, domain, "-", "--format", "csv", code=2)[1]
    assert "no folder" in ingest(shared, domain, str(table), "--format", "adaptive-classifier", code=2)[1]
    assert "config.json" in ingest(shared, domain, str(tmp_path), code=1)[1]
    pandas()
    fake = tmp_path / "t.parquet"
    fake.write_bytes(b"PAR1 not really")
    assert "is it a whole Parquet file?" in ingest(shared, domain, str(fake), code=1)[1]
    pandas().DataFrame({"text": ["word"] * 50}).to_parquet(fake)
    rotten = bytearray(fake.read_bytes())
    rotten[8:40] = b"\xff" * 32
    fake.write_bytes(bytes(rotten))
    assert f"{fake}: " in ingest(shared, domain, str(fake), code=1)[1]


def test_without_pyarrow_the_extra_is_named(shared: Daemon, domain: str, tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    file.write_bytes(b"PAR1")
    code = ("import sys; sys.modules['pyarrow'] = None; from adaptd.cli import main; "
            f"main(['ingest', {str(file)!r}, '--domain', {domain!r}, '--config', {str(shared.folder)!r}])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.returncode, "pip install 'adaptd[parquet]'" in done.stderr) == (3, True), done.stderr


def test_label_studio_gives_each_annotators_label(shared: Daemon, domain: str) -> None:
    file = str(FORMATS / "label-studio.json")
    counts, said = ingest(shared, domain, file, code=1)
    assert counts == {"accepted": 4, "duplicates": 0, "held": 0, "rejected": 1}
    assert f"{file}:3: 2 choices (a text has one label" in said
    assert ingest(shared, domain, file, code=1)[0]["duplicates"] == 4
    faith = "To have faith is to trust yourself to the water"
    assert {(one["label"], one["source"]) for one in Client(shared.folder, domain=domain).search(faith, 2)} == {
        ("Positive", "ada@example.com"), ("Neutral", "bob@example.com")}


def test_label_studio_json_min(shared: Daemon, domain: str) -> None:
    file = str(FORMATS / "label-studio-min.json")
    assert ingest(shared, domain, file)[0]["accepted"] == 2
    assert ingest(shared, domain, file, "--map", "text=text,label=sentiment")[0]["duplicates"] == 2
    found = Client(shared.folder, domain=domain).search("goose neck", 1)[0]
    assert (found["label"], found["source"]) == ("Neutral", "annotator-2")


def test_rasa_gives_intents_and_plain_texts(shared: Daemon, domain: str) -> None:
    file = str(FORMATS / "nlu.yml")
    counts, said = ingest(shared, domain, file, code=1)
    assert counts == {"accepted": 9, "duplicates": 0, "held": 0, "rejected": 1}
    assert f"{file}:intent book_flight, example 3: no dash before it" in said
    assert ingest(shared, domain, file, code=1)[0]["duplicates"] == 9
    client = Client(shared.folder, domain=domain)
    assert {(one["text"], one["label"]) for one in client.search("I want to fly to Munich", 2)} == {
        ("I want to fly from Boston to Munich", "book_flight"), ("how much is a ticket to Berlin?", "book_flight")}
    assert client.search("do you only handle english", 1)[0]["label"] == "faq/language"
    assert client.search("see you later", 1)[0]["text"] == "bye, see you later"


def test_a_folder_that_adaptive_classifier_saved(shared: Daemon, domain: str) -> None:
    """It was saved by adaptive-classifier 0.3.1, which had learned three examples of each of two labels and keeps two."""
    folder = str(FORMATS / "adaptive-classifier")
    counts, said = ingest(shared, domain, folder)
    assert counts == {"accepted": 4, "duplicates": 0, "held": 0, "rejected": 0}
    assert "it kept 4 of the 6 examples that it learned" in said
    assert ingest(shared, domain, folder)[0]["duplicates"] == 4
    assert [one.label for one in Client(shared.folder, domain=domain).predict(["the parcel is late", "refund my money"])] == [
        "delivery", "refund"]
