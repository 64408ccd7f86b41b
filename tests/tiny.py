"""Real transformers models of images and sounds, small and with random weights: enough to tell colours and tones apart."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE, RATE = 32, 16_000
VIT = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
       "do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
WHISPER = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": RATE, "hop_length": 160,
           "chunk_length": 30, "n_fft": 400, "padding_value": 0.0}
WAV2VEC2 = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": RATE, "padding_value": 0.0,
            "do_normalize": True, "return_attention_mask": False}
# encoders of theirs in a configuration; `.format(vit=…, whisper=…)` says where the models are
SENSES = """
[encoders.eyes]
kind = "image"
options = {{ model = "{vit}" }}
[encoders.ears]
kind = "audio"
options = {{ model = "{whisper}", seconds = 2.0 }}
[encoders.numbers]
kind = "numeric"
"""


def vit(folder: Path) -> Path:
    """Save a model of images."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=SIDE,
                       patch_size=8)
    return _saved(lambda: ViTModel(config, add_pooling_layer=False), VIT, folder)


def whisper(folder: Path) -> Path:
    """Save a model of sounds that reads thirty seconds."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(vocab_size=64, d_model=32, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2,
                           decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=0, bos_token_id=1,
                           eos_token_id=2, decoder_start_token_id=1, init_std=0.2)  # with less all sounds are nearly alike to it
    return _saved(lambda: WhisperModel(config), WHISPER, folder)


def wav2vec2(folder: Path) -> Path:
    """Save a model of sounds that reads what there is."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=32,
                            conv_dim=(16, 16, 16), conv_stride=(5, 4, 4), conv_kernel=(10, 8, 4), num_conv_pos_embeddings=16,
                            num_conv_pos_embedding_groups=2)
    return _saved(lambda: Wav2Vec2Model(config), WAV2VEC2, folder)


def _saved(make: Callable[[], Any], processor: dict[str, Any], folder: Path) -> Path:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same weights whatever ran before
        make().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def square(red: int, green: int, blue: int, *, noise: int = 0, side: int = 40, kind: str = "PNG") -> bytes:
    """Return an image of one colour, each noise another."""
    from PIL import Image

    pixels = np.full((side, side, 3), (red, green, blue)) + np.random.RandomState(noise).randint(-20, 21, (side, side, 3))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, kind)
    return out.getvalue()


def tone(hertz: float, *, seconds: float = 0.5, rate: int = RATE, noise: int = 0) -> bytes:
    """Return a WAV file of a tone, each noise another."""
    times = np.arange(int(seconds * rate)) / rate
    samples = 12_000 * np.sin(2 * np.pi * hertz * times) + np.random.RandomState(noise).normal(0, 500, len(times))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def sent(data: bytes) -> dict[str, str]:
    """Return bytes as they are sent."""
    return {"$base64": base64.b64encode(data).decode()}
