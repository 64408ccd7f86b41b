"""The plugin keeps its promises."""

import base64

from adaptd import media
from adaptd.testing import check_domain
from adaptd_speech import Speech

SILENCE = media.probe("audio").audio or b""


def sent(data: bytes) -> dict[str, object]:
    return {"audio": {"$base64": base64.b64encode(data).decode()}}


def test_speech_is_a_good_domain() -> None:
    check_domain(Speech, rejected=[{}, {"audio": "a.wav"}, sent(b"no sound"), sent(SILENCE[:30]), sent(SILENCE)])
