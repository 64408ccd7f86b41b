"""Media: what images and sounds are taken, and how they are read; what comes from outside is bounded before it is decoded.

At the door a domain calls `picture` or `sound`, which refuse with field and cure what cannot be read; the encoders read the
same bytes with `image` and `wave`. Pillow, soundfile and soxr come with the extras `vision` and `speech` and are imported
where they are used.
"""

from __future__ import annotations

import io
import wave as riff
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adaptd.errors import BadPayload, MissingExtra
from adaptd.records import Blob, Example

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

PIXELS = 50_000_000  # of an image; a decoded one takes three bytes for each
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
RATES = range(4_000, 192_001)  # samples a second
CHANNELS = 8
SEND_IMAGE = 'send {"$base64": …} of a PNG, JPEG, WebP, GIF or BMP file'
SEND_SOUND = 'send {"$base64": …} of a WAV, FLAC, Ogg or MP3 file'
PNG = bytes.fromhex(  # eight black pixels each way
    "89504e470d0a1a0a0000000d4948445200000008000000080800000000e164e1570000000c49"
    "44415478da6360a00e0000004800011045efd20000000049454e44ae426082")


def probe(reads: str) -> Example:
    """Return the least example of a kind: what a daemon asks before it calls itself ready."""
    silence = io.BytesIO()
    with riff.open(silence, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(3200))
    probes: Mapping[str, Any] = {"text": "ready?", "features": {"ready": 1.0}, "image": PNG, "audio": silence.getvalue()}
    return Example(**{reads: probes[reads]})


def picture(payload: Mapping[str, Any], field: str = "image") -> bytes:
    """Return the bytes of an image that can be read whole.

    Raises
    ------
    BadPayload
        It is missing, damaged, of another format, or has more than `PIXELS` pixels.
    """
    data = _bytes(payload, field, SEND_IMAGE)
    image(data, field).close()
    return data


def image(data: bytes, field: str = "image", *, least: int = 0) -> Image:
    """Return an image upright in RGB; a JPEG may come smaller, but its sides have at least `least` pixels where it has them.

    Raises
    ------
    BadPayload
        As for `picture`.
    """
    try:
        from PIL import Image as pillow
        from PIL import ImageOps, UnidentifiedImageError
    except ImportError:
        raise MissingExtra("images need Pillow", hint="pip install 'adaptd[vision]'") from None
    try:
        opened = pillow.open(io.BytesIO(data), formats=FORMATS)
        if opened.width * opened.height > PIXELS:
            raise _too_many(f"{opened.width * opened.height / 1e6:.0f}", field)
        if least:
            opened.draft("RGB", (least, least))
        upright = ImageOps.exif_transpose(opened)
        return upright.convert("RGB")
    except BadPayload:
        raise
    except UnidentifiedImageError:
        raise BadPayload("no image of a format that is read here", field=field, hint=SEND_IMAGE) from None
    except pillow.DecompressionBombError:  # it has looked before us
        raise _too_many("hundreds of", field) from None
    except UNREADABLE as error:
        raise BadPayload(f"a damaged image: {str(error)[:200]}", field=field, hint="send the whole file") from None


def _too_many(megapixels: str, field: str) -> BadPayload:
    return BadPayload(f"an image of {megapixels} megapixels; the limit is {PIXELS / 1e6:.0f}", field=field,
                      hint="send a smaller one: some hundred pixels a side are looked at")


def sound(payload: Mapping[str, Any], field: str = "audio") -> bytes:
    """Return the bytes of a sound that can be read and is not silent.

    Raises
    ------
    BadPayload
        It is missing, damaged, empty, silent, or of another format, an odd sampling rate or too many channels.
    """
    data = _bytes(payload, field, SEND_SOUND)
    samples, _ = wave(data, field, rate=None, seconds=HEARD_S)
    if not samples.any():
        raise BadPayload(f"nothing but silence in the first {HEARD_S:g} s", field=field, hint="look at the microphone")
    return data


HEARD_S = 60.0  # of a sound, at the door


def wave(data: bytes, field: str = "audio", *, rate: int | None, seconds: float) -> tuple[npt.NDArray[np.float32], bool]:
    """Return the first seconds of a sound, channels averaged, float32 [n] at `rate` (None: its own), and whether it goes on.

    Raises
    ------
    BadPayload
        As for `sound`, silence apart.
    """
    try:
        import soundfile
        import soxr
    except (ImportError, OSError):  # libsndfile is found at import
        raise MissingExtra("sounds need soundfile and soxr", hint="pip install 'adaptd[speech]'") from None
    import numpy as np

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.samplerate not in RATES or file.channels > CHANNELS:
                raise BadPayload(f"{file.samplerate} samples a second in {file.channels} channels", field=field,
                                 hint=f"{RATES.start} to {RATES.stop - 1} samples a second, {CHANNELS} channels at most")
            wanted, own = int(seconds * file.samplerate), file.samplerate
            read = file.read(wanted + 1, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, *UNREADABLE) as error:
        raise BadPayload(f"no sound that can be read: {str(error)[:200]}", field=field, hint=SEND_SOUND) from None
    if not len(read):
        raise BadPayload("an empty sound", field=field, hint="send one with samples")
    if not np.isfinite(read).all():
        raise BadPayload("samples that are no numbers", field=field, hint="send the recording anew")
    mono = read[:wanted].mean(axis=1, dtype=np.float32)
    return (mono if rate in (None, own) else soxr.resample(mono, own, rate)), len(read) > wanted


UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError)


def _bytes(payload: Mapping[str, Any], field: str, cure: str) -> bytes:
    """Return the bytes of a field."""
    given = payload.get(field)
    if given is None:
        raise BadPayload(f"an event needs {field}", field=field, hint=cure)
    if not isinstance(given, Blob):
        raise BadPayload(f"{field} must be bytes", field=field, hint=cure)
    return given.data
