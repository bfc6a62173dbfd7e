"""Sandboxed process that tokenizes texts with the tokenizer in its folder."""

import importlib
from typing import Any

from safetensors.torch import save_file

from palettery.app.errors import BadInput, ExtraMissing
from palettery.app.inference.made_inputs import FILES, OUT
from palettery.app.inference.text_inputs import TokenizeRequest

try:
    transformers: Any = importlib.import_module("transformers")
except ImportError:
    transformers = None


def answer(request: bytes) -> bytes:
    """Entry point in the sandbox: write the tokens of a request's texts into the current folder."""
    options = TokenizeRequest.model_validate_json(request)
    if transformers is None:
        raise ExtraMissing("tokenizing needs transformers; install palettery[hf]")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            FILES, trust_remote_code=False, local_files_only=True, padding_side="right"
        )
        if tokenizer.pad_token is None:  # padding is masked, so any token will do
            tokenizer.pad_token = tokenizer.eos_token
        longest = min(options.max_length, tokenizer.model_max_length)
        tokens = tokenizer(
            list(options.texts),
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise BadInput(f"the folder's tokenizer cannot be used: {message}") from error
    save_file({name: tensor.contiguous() for name, tensor in tokens.items()}, OUT)
    return b""
