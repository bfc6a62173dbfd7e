"""Inputs of a text model, made of texts by the tokenizer of its Hugging Face folder."""

from collections.abc import Sequence
from pathlib import Path

from palettery.app.errors import BadInput
from palettery.app.inference.made_inputs import make_in_sandbox
from palettery.app.settings import Sandbox
from palettery.app.storage.input_files import check_readable
from palettery.schemas.base import Schema

PATTERNS = (
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("config.json", "*.model", "*.spm", "*.tiktoken"),
)
"""Files of a tokenizer."""


class TokenizeRequest(Schema):
    """Request to the sandboxed process."""

    texts: tuple[str, ...]
    max_length: int


def tokenize(
    folder: Path, texts: Sequence[str], max_length: int, sandbox: Sandbox, out: Path
) -> None:
    """Write texts as inputs of the folder's model, padded to the longest.

    Raises:
        BadInput: there are no texts, or the folder has no tokenizer.
    """
    if not texts:
        raise BadInput("the files hold no texts; write one text a line, or name --separator")
    files = {path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}
    if not any(file.name.startswith(("tokenizer", "vocab")) for file in files):
        raise BadInput(
            f"{folder} holds no tokenizer (tokenizer.json, or a vocabulary); name the model's "
            "Hugging Face folder"
        )
    request = TokenizeRequest(texts=tuple(texts), max_length=max_length)
    make_in_sandbox("tokenize_worker", request, sorted(files), sandbox, out, what="tokenizing")


def read_texts(paths: Sequence[Path], separator: str | None) -> list[str]:
    """Return the texts of files: one per line, or separated by lines equal to the separator.

    Raises:
        BadInput: a file cannot be read, or is not UTF-8.
    """
    texts: list[str] = []
    for path in paths:
        check_readable(path)
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise BadInput(f"{path} is not UTF-8 text; save it as UTF-8") from error
        if separator is None:
            texts += lines
            continue
        parts: list[list[str]] = [[]]
        for line in lines:
            if line == separator:
                parts.append([])
            else:
                parts[-1].append(line)
        texts += ["\n".join(part) for part in parts]
    return [text.strip() for text in texts if text.strip()]
