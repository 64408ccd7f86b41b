"""A new domain's package: a module, its entry point and a test that passes. `adaptd plugins new` writes it.

The files are those of `plugins/support`, as short as they can be; docs/tutorial.md goes on from here.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from pathlib import Path
from string import Template

from adaptd import plugins
from adaptd.errors import Conflict
from adaptd.newstore import check_empty, check_name, provider

PROJECT = """\
[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "adaptd-$name"
version = "0.1.0"
description = "The domain $name for adaptd"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["adaptd"]

[project.entry-points.adaptd]
$name = "$module"

[tool.hatch.build]
dev-mode-dirs = ["."]  # an editable install shows this folder and copies nothing

[tool.hatch.build.targets.wheel]
include = ["$module.py"]
"""

MODULE = '''\
"""The domain $name: what its events are, and what the model reads of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import adaptd


class $cls(adaptd.Domain):
    """One label per event; the payload's `text` is what is read."""

    name = "$name"
    heads = {"label": adaptd.Classify()}
    samples = [{"text": "an event as it comes in", "label": "a label"}, {"text": "one whose label comes later"}]

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Give the model the text to read, or say what is wrong with the event."""
        text = payload.get("text")
        if not isinstance(text, str) or not text.strip():
            raise adaptd.BadPayload("an event needs a text", field="text", hint='send {"text": "…"}')
        return adaptd.Example(text=text)


@adaptd.hookimpl
def register_domains() -> Iterable[type[adaptd.Domain]]:
    """Offer the domain."""
    return [$cls]
'''

TEST = '''\
"""The domain keeps what adaptd relies on."""

from adaptd.testing import check_domain
from $module import $cls


def test_${test}_is_a_good_domain() -> None:
    check_domain($cls, rejected=[{}, {"text": " "}, {"text": 1}])


def test_the_text_is_read() -> None:
    assert $cls().example({"text": "hello"}).text == "hello"
'''

README = """\
# adaptd-$name

The domain `$name` for adaptd.

```console
$$ pip install -e .
$$ python -m pytest test_$test.py
$$ adaptd plugins check $name
$$ adaptd init store --domain $name
$$ adaptd run --config store
```
"""


def create(name: str, folder: Path) -> None:
    """Write the package of a new domain into a new or an empty folder.

    Raises
    ------
    BadName
        The name cannot be a domain's.
    Conflict
        There is a domain of that name, or the folder is not empty.
    """
    check_name(name, "NAME")
    if name in plugins.collect(plugins.load("adaptd", []), "register_domains"):
        raise Conflict(f"{name!r} is a domain of adaptd itself", field="NAME", hint="take another name")
    if (by := provider(name)) is not None:
        raise Conflict(f"the installed plugin {by} gives a domain {name!r}", field="NAME",
                       hint=f"take another name, or pip uninstall {by}")
    check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in _files(name).items():
        (folder / file).write_text(text, encoding="utf-8")


def _files(name: str) -> Mapping[str, str]:
    plain = name.replace("-", "_")
    cls = "".join(part.capitalize() for part in plain.split("_"))
    words = {"name": name, "module": f"adaptd_{plain}", "test": plain,
             "cls": f"{cls}Domain" if keyword.iskeyword(cls) else cls}
    templates = {"pyproject.toml": PROJECT, f"adaptd_{plain}.py": MODULE, f"test_{plain}.py": TEST, "README.md": README}
    return {file: Template(text).substitute(words) for file, text in templates.items()}
