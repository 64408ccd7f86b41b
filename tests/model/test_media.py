"""The encoders of images and sounds, with real models that are small; and what of outside is refused before it is decoded."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from adaptd import media
from adaptd.errors import BadPayload, CannotStart
from adaptd.model.audio import Audio
from adaptd.model.image import Image
from adaptd.records import Example
from tests import tiny


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Image:
    made = Image(str(tiny.vit(tmp_path_factory.mktemp("vit"))))
    made.load()
    return made


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module", params=["whisper", "wav2vec2"])
def ears(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Audio:
    made = Audio(str(getattr(tiny, request.param)(tmp_path_factory.mktemp(request.param))), seconds=2.0)
    made.load()
    return made


def pictures(*data: bytes) -> list[Example]:
    return [Example(image=one) for one in data]


def sounds(*data: bytes) -> list[Example]:
    return [Example(audio=one) for one in data]


def test_an_image_encoder_tells_colours_apart(eyes: Image) -> None:
    vectors, _ = eyes.encode(pictures(tiny.square(250, 0, 0), tiny.square(250, 0, 0, noise=1), tiny.square(0, 0, 250)))
    alike = (vectors.float() @ vectors.float().T)[0]
    assert vectors.shape == (3, eyes.dim) and vectors.dtype == torch.float16 and eyes.dim == 3 * 32
    assert alike[0] == pytest.approx(1.0, abs=0.01) and alike[1] > alike[2]


def test_an_encoder_of_other_layers_or_pooling_has_another_digest(eyes: Image) -> None:
    digests = {eyes.digest}
    for other in (Image(eyes.model, layers=[3]), Image(eyes.model, pooling="class")):
        other.load()
        digests.add(other.digest)
    again = Image(eyes.model)
    again.load()
    assert len(digests) == 3 and again.digest == eyes.digest


def test_a_layer_that_the_model_lacks_is_refused(eyes: Image) -> None:
    with pytest.raises(CannotStart, match="0 to 3, not 9"):
        Image(eyes.model, layers=[9]).load()


def test_a_sound_encoder_tells_tones_apart_at_any_rate(ears: Audio) -> None:
    vectors, truncated = ears.encode(sounds(tiny.tone(440), tiny.tone(440, rate=44_100, noise=1), tiny.tone(3000)))
    alike = (vectors.float() @ vectors.float().T)[0]
    assert alike[1] > alike[2] and truncated == [False, False, False]


def test_what_came_with_a_sound_does_not_change_its_vector(ears: Audio) -> None:
    clips = [tiny.tone(300 + 100 * i, seconds=0.2 + 0.2 * i) for i in range(4)]
    together = ears.encode(sounds(*clips))[0].float()
    alone = torch.cat([ears.encode(sounds(one))[0] for one in clips]).float()
    assert torch.allclose(together, alone, atol=2e-3)


def test_a_longer_sound_is_heard_from_its_beginning_and_flagged(ears: Audio) -> None:
    _, truncated = ears.encode(sounds(tiny.tone(440, seconds=2.5), tiny.tone(440, seconds=0.01)))
    assert truncated == [True, False]


def test_whisper_that_hears_less_than_asked_for_is_refused(whisper: Path) -> None:
    with pytest.raises(CannotStart, match="hears 30 s, not 60"):
        Audio(str(whisper), seconds=60.0).load()


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few kilobytes whose header promises so many pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("data", "says"), [
    (b"", "no image"), (b"GIF89a", "damaged|no image"), (tiny.square(1, 2, 3)[:60], "damaged"), (bomb(9000, 9000), "81 megapix"),
    (bomb(60_000, 60_000), "hundreds of megapix"), (tiny.square(9, 9, 9, kind="JPEG")[:-200], "damaged"),
    (tiny.square(9, 9, 9, kind="TIFF"), "no image")])
def test_an_image_that_cannot_be_read_is_refused_with_a_cure(data: bytes, says: str) -> None:
    with pytest.raises(BadPayload, match=says) as refused:
        media.image(data)
    assert refused.value.field == "image" and refused.value.hint


def test_an_image_is_turned_as_its_camera_was() -> None:
    out, exif = io.BytesIO(), Pillow.Exif()
    exif[0x0112] = 6  # a quarter turn
    Pillow.new("RGB", (40, 20)).save(out, "JPEG", exif=exif)
    assert media.image(out.getvalue()).size == (20, 40)


@pytest.mark.parametrize(("data", "says"), [
    (b"", "no sound"), (b"RIFF", "no sound"), (tiny.tone(440)[:44], "empty"), (tiny.tone(440, rate=100), "100 samples a second"),
    (tiny.square(1, 1, 1), "no sound")])
def test_a_sound_that_cannot_be_read_is_refused_with_a_cure(data: bytes, says: str) -> None:
    with pytest.raises(BadPayload, match=says) as refused:
        media.wave(data, rate=None, seconds=60.0)
    assert refused.value.field == "audio" and refused.value.hint


def test_samples_that_are_no_numbers_are_refused() -> None:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, np.array([0.0, np.nan, 1.0]), 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(BadPayload, match="no numbers"):
        media.wave(out.getvalue(), rate=None, seconds=60.0)


@pytest.mark.parametrize("reads", ["text", "features", "image", "audio"])
def test_there_is_something_to_ask_an_encoder_of_each_kind(reads: str) -> None:
    assert getattr(media.probe(reads), reads)
