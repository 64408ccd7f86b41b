"""A vocabulary in RDF, as SKOS has it: each name, synonym and definition of a concept is an example of its label.

So a label can be answered before its first real example, by what it means. Turtle, N-Triples and RDF/XML; nothing is
fetched. Relations between concepts are no examples: `adaptd.vocabulary` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptd.errors import BadFile, MissingExtra
from adaptd.imports import Row

SYNTAX: Mapping[str, str] = {".ttl": "turtle", ".nt": "nt", ".rdf": "xml"}
NAMES = ("prefLabel", "altLabel", "hiddenLabel")
TEXTS = (*NAMES, "definition", "scopeNote", "example")
Relations = tuple[str, list[str], str | None, list[str]]  # label, names, the broader label, related labels


def rows(file: Path, kind: str, fields: Mapping[str, str]) -> Iterator[Row]:
    """Read a vocabulary, its concepts in the order of their addresses."""
    graph, skos, concepts = _read(file)
    for concept in concepts:
        label, error = _label(graph, concept, skos)
        if label is None:
            yield Row(str(concept), error=error)
            continue
        for name in TEXTS:
            for text in sorted({str(one) for one in graph.objects(concept, skos[name])}):
                yield Row(f"{concept} {name}", {"text": text, "label": label})


def relations(file: Path) -> Iterator[Relations]:
    """Read what the concepts are called and how they hang together; of several broader ones the first by its label.

    Raises
    ------
    BadFile
        It is no vocabulary, or a concept has no label.
    """
    graph, skos, concepts = _read(file)
    labels = {concept: _label(graph, concept, skos) for concept in concepts}
    if wrong := next(((str(one), error) for one, (label, error) in labels.items() if label is None), None):
        raise BadFile(f"{file}: {wrong[0]}: {wrong[1]}")

    def named(*found: Any) -> list[str]:
        return sorted({str(labels[one][0]) for each in found for one in each if one in labels})

    for concept in concepts:
        label = str(labels[concept][0])
        names = sorted({str(one) for name in NAMES for one in graph.objects(concept, skos[name])} - {label})
        broader = named(graph.objects(concept, skos.broader), graph.subjects(skos.narrower, concept))
        related = named(graph.objects(concept, skos.related), graph.subjects(skos.related, concept))
        yield label, names, broader[0] if broader else None, related


def _read(file: Path) -> tuple[Any, Any, list[Any]]:
    """Return the graph, SKOS's names, and the concepts."""
    try:
        from rdflib import RDF, SKOS, Graph
    except ImportError:
        raise MissingExtra("a vocabulary in RDF needs rdflib", hint="pip install 'adaptd[rdf]'") from None
    graph = Graph()
    try:
        graph.parse(data=file.read_bytes(), format=SYNTAX.get(file.suffix.lower(), "turtle"), publicID=file.name)
    except OSError:
        raise
    except Exception as error:  # each of rdflib's parsers has errors of its own
        what = " ".join(str(error).split())[:300]
        raise BadFile(f"{file}: not RDF: {what}", hint=f"mend it, or convert it to one of {', '.join(SYNTAX)}") from None
    concepts = sorted(set(graph.subjects(RDF.type, SKOS.Concept)), key=str)
    if not concepts:
        raise BadFile(f"{file}: no skos:Concept in it", hint="labels are the concepts of a SKOS vocabulary")
    return graph, SKOS, concepts


def _label(graph: Any, concept: Any, skos: Any) -> tuple[str | None, str | None]:
    """Return a concept's label, or why it has none: its notation, else its only name, or the one in English or no language."""
    if notations := sorted(map(str, graph.objects(concept, skos.notation))):
        return notations[0], None
    names = sorted(graph.objects(concept, skos.prefLabel), key=str)
    chosen = names if len(names) == 1 else [name for name in names if name.language in (None, "en")]
    if len(chosen) == 1:
        return str(chosen[0]), None
    return None, "no skos:notation, and none or several skos:prefLabel that could be its label (give it a notation)"
