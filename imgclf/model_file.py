"""Opens a ``model.onnx``: nothing but ONNX, unchanged since its export, and what its card says."""

import os
from pathlib import Path

import onnxruntime

from imgclf.card import METADATA_KEY, ModelCard
from imgclf.cores import SERVING_DEVICES
from imgclf.errors import ImgclfError
from imgclf.seal import digest_if_intact, is_sealed

INPUT = "image"
OUTPUTS = ("logits", "probabilities")
_GIVE_ANOTHER = "Give a model.onnx that 'imgclf export' wrote."


def open_model_file(
    model: "str | os.PathLike[str] | bytes", threads: int, device: str, allow_spinning: bool
) -> tuple[onnxruntime.InferenceSession, ModelCard, str]:
    """Open a model file on a device.

    Args:
        model: its path, or its bytes.
        threads: CPU threads of the session; 0: one for each core.
        device: one of `SERVING_DEVICES`.
        allow_spinning: whether the session's threads wait for work by spinning.

    Returns:
        the session, the card, and the SHA-256 of the file.

    Raises:
        ImgclfError: it is absent, no ONNX model, not one of imgclf's, or changed since its export;
            or the device cannot be used.
    """
    content = model if isinstance(model, bytes) else read_model(Path(model))
    name = "the model" if isinstance(model, bytes) else f"'{Path(model)}'"
    sha256 = digest_if_intact(content)
    if sha256 is None and is_sealed(content):
        raise _changed(name)
    session = _open_session(content, name, threads, device, allow_spinning)
    card = _card_of(session, name)
    if sha256 is None:
        raise _changed(name)
    return session, card, sha256


def read_model(path: Path) -> bytes:
    """Return the bytes of a model file.

    Raises:
        ImgclfError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except IsADirectoryError:
        reason = "it is a folder"
    except FileNotFoundError:
        reason = "no such file"
    except OSError as error:
        reason = str(error.strerror or error)
    raise ImgclfError(
        f"Cannot open the model '{path}': {reason}.",
        "Give the path of a model.onnx; 'imgclf export' writes one.",
    )


def _open_session(
    content: bytes, name: str, threads: int, device: str, allow_spinning: bool
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    spinning = "1" if allow_spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    # A model is one file: its weights are never read from other files on this machine.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    providers = _providers(device)
    try:
        # onnxruntime would go on with another provider, and say so on standard output.
        session = onnxruntime.InferenceSession(
            content, options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors share no base class
        raise ImgclfError(
            f"{name} is not an ONNX model that can be used: {one_line(error)}", _GIVE_ANOTHER
        ) from error
    # Where CUDA's own libraries are missing, it takes the CPU without an error.
    if len(session.get_providers()) < len(providers):
        raise ImgclfError(
            "onnxruntime cannot use CUDA on this machine.",
            "Check the driver, and that CUDA and cuDNN are those that onnxruntime-gpu asks for.",
        )
    return session


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """Return who computes, the CPU last."""
    cpu = "CPUExecutionProvider"
    if device == "cpu":
        return [cpu]
    assert device in SERVING_DEVICES
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ImgclfError(
            "This onnxruntime has no CUDA.",
            "In an environment of its own, install imgclf and replace onnxruntime: pip uninstall"
            " onnxruntime; pip install onnxruntime-gpu",
        )
    # As exact as the proof: without TF32.
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), cpu]


def _card_of(session: onnxruntime.InferenceSession, name: str) -> ModelCard:
    """Read the model card, and check that the graph is the one it describes."""
    try:
        metadata = session.get_modelmeta().custom_metadata_map
        found = {
            value.name: (value.type, value.shape[1:])
            for value in (*session.get_inputs(), *session.get_outputs())
        }
    except UnicodeDecodeError as error:
        raise ImgclfError(f"{name} is damaged: {error.reason}.", _GIVE_ANOTHER) from error
    if METADATA_KEY not in metadata:
        raise ImgclfError(
            f"{name} is an ONNX model, but not one that imgclf exported: it has no model card.",
            _GIVE_ANOTHER,
        )
    card = ModelCard.from_json(metadata[METADATA_KEY])
    rule, answer = card.preprocessing, ("tensor(float)", [len(card.classes)])
    described = {INPUT: ("tensor(uint8)", [rule.height, rule.width, rule.channels])}
    described |= dict.fromkeys(OUTPUTS, answer)
    for value, (kind, shape) in described.items():
        if found.get(value) != (kind, shape):
            raise ImgclfError(
                f"{name} contradicts its model card: '{value}' should be {kind} [batch,"
                f" {', '.join(map(str, shape))}].",
                _GIVE_ANOTHER,
            )
    return card


def _changed(name: str) -> ImgclfError:
    return ImgclfError(
        f"{name} has been changed since it was exported, or was not copied whole; or it is of an"
        " imgclf that sealed no files yet.",
        "Copy it again, or write it anew with 'imgclf export'.",
    )


def one_line(error: Exception) -> str:
    """Return an error's text without its line breaks."""
    return " ".join(str(error).split())
