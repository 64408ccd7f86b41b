"""Sets of numbers, images and sounds are read with what serves them."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest

from adaptd.bench import sets
from adaptd.bench.peers import Frozen, Inputs, Tree


def kept(folder: Path, name: str, **arrays: object) -> Path:
    (folder / name).mkdir()
    np.savez(folder / name / "data.npz", **arrays)
    return folder


def test_a_stream_of_numbers_knows_the_label_before(tmp_path: Path) -> None:
    data = sets.load("elec2", kept(tmp_path, "elec2", X=np.eye(3), y=np.array([0, 1, 1]), columns=np.array(["a", "b", "c"])))
    rows = data.in_time()
    assert rows.texts[0] == {"a": 1.0, "b": 0.0, "c": 0.0, "before": "label none"}
    assert [row["before"] for row in rows.texts[1:]] == ["label 0", "label 1"] and rows.labels == ["0", "1", "1"]
    assert data.setting.domain == "numeric" and data.setting.example(rows.texts[0]).features


def test_a_stream_of_sounds_changes_with_its_speaker(tmp_path: Path) -> None:
    import soundfile

    data = sets.load("fsdd", kept(tmp_path, "fsdd", wave=np.arange(40, dtype=np.int16), offset=np.arange(0, 41, 10), rate=8000,
                                  y=np.arange(4), take=np.array([0, 5, 0, 5]), speaker=np.array(["b", "a", "a", "b"])))
    assert data.changes == (2,) and len(data.split("train")) == len(data.split("test")) == 2
    sound = base64.b64decode(data.split("test").texts[0]["audio"]["$base64"])
    assert soundfile.read(io.BytesIO(sound), dtype="int16")[0].tolist() == list(range(10))


def test_a_set_of_images_needs_a_model(tmp_path: Path) -> None:
    data = sets.load("mnist10k", kept(tmp_path, "mnist10k", x=np.zeros((20, 28, 28), np.uint8), y=np.arange(20) % 10))
    assert data.per == 2 and data.setting.encoder is not None
    with pytest.raises(sets.BadData, match="needs an encoder"):
        data.setting.encoder()


def test_what_is_fitted_once_stays_and_trees_read_numbers() -> None:
    vectors, classes = np.eye(4, dtype=np.float32), np.arange(4)
    inputs = Inputs(vectors, [{"x": [float(i)]} for i in range(4)])
    frozen, tree = Frozen(every=None, strength=100.0), Tree("tree", "HoeffdingAdaptiveTreeClassifier")
    for peer in (frozen, tree):
        peer.learn(inputs, classes)
        peer.refit()
        peer.learn(inputs, classes[::-1].copy())
        peer.refit()
    assert frozen.predict(inputs).tolist() == [0, 1, 2, 3] and set(tree.predict(inputs).tolist()) <= set(range(4))
