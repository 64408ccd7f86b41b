"""Sets that are no texts, from FOLDER/NAME/data.npz: images, sounds, numbers; with the domain and the encoder that read each."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptd.bench.sets import BadData, DataSet, Rows, Setting
from adaptd.numeric import Numeric
from adaptd.records import Example

EACH, TESTED = 60, 20  # images of a class that are learned and asked
SPEAKER = 50  # events of a new speaker that are counted by themselves
HEARD_S = 2.0  # of a recording; the set's are cut at 1.5
TREES = ("hoeffding-tree", "forest")
NUMBERS = Setting(domain="numeric", peers=("cron", "frozen", "nearest-neighbours", *TREES), block=1, config="""
[encoders.numbers]
kind = "numeric"
[domains.numeric]
encoder = "numbers"
""", example=Numeric().example)
Array = npt.NDArray[Any]


def load(name: str, file: Path, model: str | None) -> DataSet:
    """Read a set; `model` is the folder of the encoder that it needs.

    Raises
    ------
    BadData
        It needs a model, and none is named.
    """
    with np.load(file, allow_pickle=False) as arrays:
        return READERS[name](name, dict(arrays), model)


def _stream(name: str, arrays: dict[str, Array], _: str | None) -> DataSet:
    """Numbers in the order in which they were taken; the label before, known by then, is one of them (Žliobaitė et al., 2015)."""
    names = [str(one) for one in arrays["columns"]] if "columns" in arrays else [f"x{i}" for i in range(arrays["X"].shape[1])]
    labels = _labels(arrays["y"])
    payloads = [{**dict(zip(names, map(float, row), strict=True)), "before": f"label {before}"}
                for row, before in zip(arrays["X"], ["none", *labels[:-1]], strict=True)]
    return DataSet(name=name, splits={"all": Rows(payloads, labels)}, timed=True, setting=NUMBERS)


def _digits(name: str, arrays: dict[str, Array], _: str | None) -> DataSet:
    """Pixels as numbers; each fourth image is asked."""
    rows = [{"pixels": row.reshape(-1).astype(float).tolist()} for row in arrays["x"]]
    asked = np.arange(len(rows)) % 4 == 0
    return DataSet(name=name, splits=_split(rows, _labels(arrays["y"]), ~asked, asked), timed=False, setting=NUMBERS, classes=2)


def _cifar(name: str, arrays: dict[str, Array], model: str | None) -> DataSet:
    names = arrays["classes"]
    splits = {}
    for split, count in (("train", EACH), ("test", TESTED)):
        rows = np.sort(np.concatenate([np.flatnonzero(arrays[f"y_{split}"] == c)[:count] for c in range(len(names))]))
        splits[split] = Rows([{"image": _sent(_png(arrays[f"x_{split}"][row]))} for row in rows],
                             [str(names[c]) for c in arrays[f"y_{split}"][rows]])
    return DataSet(name=name, splits=splits, timed=False, setting=_seen(model), classes=2)


def _mnist(name: str, arrays: dict[str, Array], model: str | None) -> DataSet:
    """The first half is learned, of the second asked, as many of each digit as of another set's classes."""
    splits, half = {}, len(arrays["y"]) // 2
    for split, part, count in (("train", slice(0, half), EACH), ("test", slice(half, None), TESTED)):
        x, y = arrays["x"][part], arrays["y"][part]
        rows = np.sort(np.concatenate([np.flatnonzero(y == c)[:count] for c in range(10)]))
        splits[split] = Rows([{"image": _sent(_png(x[row]))} for row in rows], _labels(y[rows]))
    return DataSet(name=name, splits=splits, timed=False, setting=_seen(model), classes=2)


def _fsdd(name: str, arrays: dict[str, Array], model: str | None) -> DataSet:
    """Spoken digits: as a stream one speaker after the other, by class the set's own split (takes 0 to 4 are asked)."""
    wave, at, rate = arrays["wave"], arrays["offset"], int(arrays["rate"])
    rows = [{"audio": _sent(_wav(wave[at[i]:at[i + 1]], rate))} for i in range(len(arrays["y"]))]
    labels, asked = _labels(arrays["y"]), arrays["take"] < 5
    order = sorted(range(len(rows)), key=dict(enumerate(np.random.RandomState(0).permutation(len(rows)))).__getitem__)
    order.sort(key=lambda row: str(arrays["speaker"][row]))
    speakers = [str(arrays["speaker"][row]) for row in order]
    return DataSet(name=name, timed=True, setting=_heard(model), classes=2,
                   splits={"all": Rows([rows[i] for i in order], [labels[i] for i in order]),
                           **_split(rows, labels, ~asked, asked)},
                   changes=tuple(i for i in range(1, len(order)) if speakers[i] != speakers[i - 1]))


Reader = Callable[[str, dict[str, Array], str | None], DataSet]
READERS: dict[str, Reader] = {"elec2": _stream, "outdoor": _stream, "digits8x8": _digits, "cifar10_small": _cifar,
                              "mnist10k": _mnist, "fsdd": _fsdd}


def _split(rows: Sequence[Any], labels: Sequence[str], train: Array, test: Array) -> dict[str, Rows]:
    return {name: Rows([rows[i] for i in np.flatnonzero(chosen).tolist()], [labels[i] for i in np.flatnonzero(chosen).tolist()])
            for name, chosen in (("train", train), ("test", test))}


def _labels(y: Array) -> list[str]:
    return [str(int(one)) for one in y]


def _seen(model: str | None) -> Setting:
    def encoder() -> Any:
        from adaptd.model.image import Image

        return Image(_needed(model))

    return Setting(domain="vision", config=f"""
[plugins]
allow = ["adaptd-vision"]
[encoders.eyes]
kind = "image"
options = {{ model = "{model}" }}
[domains.vision]
encoder = "eyes"
""", encoder=encoder, example=lambda payload: Example(image=base64.b64decode(payload["image"]["$base64"])),
                   peers=("cron", "nearest-mean", "nearest-neighbours"))


def _heard(model: str | None) -> Setting:
    def encoder() -> Any:
        from adaptd.model.audio import Audio

        return Audio(_needed(model), seconds=HEARD_S)

    return Setting(domain="speech", config=f"""
[plugins]
allow = ["adaptd-speech"]
[encoders.ears]
kind = "audio"
options = {{ model = "{model}", seconds = {HEARD_S} }}
[domains.speech]
encoder = "ears"
""", encoder=encoder, example=lambda payload: Example(audio=base64.b64decode(payload["audio"]["$base64"])),
                   peers=("cron", "frozen", "nearest-mean", "nearest-neighbours"))


def _needed(model: str | None) -> str:
    if model is None:
        raise BadData("this set needs an encoder", field="model", hint="name its folder: --model DIR")
    return model


def _sent(data: bytes) -> dict[str, str]:
    return {"$base64": base64.b64encode(data).decode()}


def _png(pixels: Array) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def _wav(samples: Array, rate: int) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV")
    return out.getvalue()
