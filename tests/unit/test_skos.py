"""A SKOS vocabulary becomes examples of its labels: names, synonyms and definitions, and nothing is fetched."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from adaptd.errors import BadFile
from adaptd.imports import Row, format_of, rows

PREFIX = "@prefix skos: <http://www.w3.org/2004/02/skos/core#> .\n@prefix : <http://example.org/> .\n"
VOCABULARY = PREFIX + """
:b a skos:Concept ; skos:notation "refund" ; skos:prefLabel "Refund"@en, "Erstattung"@de ; skos:altLabel "money back"@en ;
   skos:definition "The customer wants the price returned."@en ; skos:broader :a .
:a a skos:Concept ; skos:prefLabel "Delivery" ; skos:altLabel "shipping", "parcel" .
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.ttl"
    path.write_text(VOCABULARY)
    return path


def test_every_name_and_definition_is_an_example_of_its_label(file: Path) -> None:
    assert format_of(str(file)) == "skos"
    found = list(rows(file, "skos", {}))
    assert [(row.event["label"], row.event["text"]) for row in found] == [
        ("Delivery", "Delivery"), ("Delivery", "parcel"), ("Delivery", "shipping"), ("refund", "Erstattung"),
        ("refund", "Refund"), ("refund", "money back"), ("refund", "The customer wants the price returned.")]
    assert found[1].where == "http://example.org/a altLabel"
    assert found == list(rows(file, "skos", {}))


@pytest.mark.parametrize(("syntax", "suffix"), [("nt", ".nt"), ("xml", ".rdf")])
def test_other_syntaxes_say_the_same(file: Path, syntax: str, suffix: str) -> None:
    from rdflib import Graph

    other = file.with_suffix(suffix)
    Graph().parse(file).serialize(other, format=syntax, encoding="utf-8")
    assert list(rows(other, "skos", {})) == list(rows(file, "skos", {}))


def test_a_concept_without_one_label_is_named_and_the_others_taken(file: Path) -> None:
    file.write_text(VOCABULARY + ':c a skos:Concept ; skos:prefLabel "eins"@de, "une"@fr .')
    found = list(rows(file, "skos", {}))
    assert found[-1] == Row("http://example.org/c", error=found[-1].error) and "give it a notation" in str(found[-1].error)
    assert len(found) == 8


@pytest.mark.parametrize(("text", "message"), [("this is no Turtle", "not RDF"), ("", "no skos:Concept in it"),
                                               ("<a> <b> <c> .", "no skos:Concept in it")])
def test_what_is_no_vocabulary_is_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(BadFile, match=re.escape(message)):
        list(rows(file, "skos", {}))


def test_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    (tmp_path / "secret").write_text("a secret")
    file = tmp_path / "labels.rdf"
    file.write_text(f"""<?xml version="1.0"?><!DOCTYPE rdf:RDF [<!ENTITY x SYSTEM "{(tmp_path / 'secret').as_uri()}">]>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:skos="http://www.w3.org/2004/02/skos/core#">
<skos:Concept rdf:about="http://example.org/a"><skos:notation>a</skos:notation>
<skos:prefLabel>name &x;</skos:prefLabel></skos:Concept>
</rdf:RDF>""")
    try:
        found = list(rows(file, "skos", {}))
    except BadFile:
        return
    assert "secret" not in str(found)
