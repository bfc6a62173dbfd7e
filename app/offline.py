"""The work of a job without a server: the same steps, one after the other, in this process."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.artifacts.reader import Artifact, open_artifact
from app.artifacts.writer import Chunks, Entry, arranged, stream
from app.compression.assemble import assemble
from app.errors import BadInput, InvalidArtifact, PaletteryError
from app.jobs.inline import run_tasks
from app.planning.intake import Upload, take_in
from app.planning.tasks import cut
from app.settings import read_settings
from app.storage import open_storage
from schemas.artifact import ArtifactSummary, StoredWeight
from schemas.checkpoint import StoredFile
from schemas.config import KMeansPalettizerConfig
from schemas.plan import Plan
from schemas.report import Report
from schemas.tasks import CompressionTask

Advance = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def plan(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    *,
    sensitivities: Sequence[Path] = (),
    strict: bool = False,
) -> Plan:
    """What a job with this config would do to the model in these files."""
    model, beside = _uploads(paths, sensitivities)
    return take_in(config, model, beside, read_settings().limits, strict=strict).plan


def compress(
    paths: Sequence[Path],
    config: KMeansPalettizerConfig,
    out: Path,
    advance: Advance,
    *,
    sensitivities: Sequence[Path] = (),
    strict: bool = False,
) -> Report:
    """Palettize the model in these files into `out`: a file, or a folder when it is sharded.

    Nothing appears at `out` unless all of it is verified.
    """
    _check_out(out, model=paths, sensitivities=sensitivities)
    settings, (model, beside) = read_settings(), _uploads(paths, sensitivities)
    intake = take_in(config, model, beside, settings.limits, strict=strict)
    with _aside(out) as folder:
        store = open_storage(folder.as_uri())
        tasks = cut(
            intake.plan,
            intake.checkpoint,
            source_url=model.storage.url,
            store_url=store.url,
            parts_prefix="parts",
            task_bytes=settings.task_bytes,
            sensitivities=intake.sensitivities,
            sensitivities_url=beside.storage.url if beside else None,
        )
        _run(tasks, advance)
        report = assemble(
            intake.plan,
            intake.checkpoint,
            tasks,
            source=model.storage,
            store=store,
            prefix="job",
            config=config,
        )
        _publish(folder / "job" / "artifact", out)
    return report


def inspect(paths: Sequence[Path]) -> ArtifactSummary:
    """What an artifact holds, from its headers."""
    artifact = _open(paths)
    palettized = tuple(
        StoredWeight(
            name=name,
            weight=weight,
            size_bytes=sum(part.tensor.size_bytes for part in artifact.palettes[name].values()),
        )
        for name, weight in artifact.weights.items()
    )
    kept = {name: stored.tensor.size_bytes for name, stored in artifact.kept.items()}
    return ArtifactSummary(palettized=palettized, kept=kept, software=artifact.metadata[0].software)


def decompress(paths: Sequence[Path], out: Path) -> None:
    """Write an artifact's weights as LUT[indices] into one dense safetensors file."""
    artifact = _open(paths)
    entries = arranged([*_dense_entries(artifact), *_kept_entries(artifact)])
    with _aside(out) as folder:
        open_storage(folder.as_uri()).write("dense", stream(entries, {"format": "pt"}))
        (folder / "dense").replace(out)


def _dense_entries(artifact: Artifact) -> Iterator[Entry]:
    for name, weight in artifact.weights.items():

        def chunks(name: str = name) -> Chunks:
            for _, block in artifact.blocks(name):
                yield block.reshape(-1).view("u1").data

        yield Entry(name, weight.dtype, weight.shape, artifact.dense_bytes(name), chunks)


def _kept_entries(artifact: Artifact) -> Iterator[Entry]:
    for name, stored in artifact.kept.items():
        tensor, path = stored.tensor, stored.path

        def chunks(
            path: str = path, start: int = tensor.offset, size: int = tensor.size_bytes
        ) -> Chunks:
            return artifact.storage.chunks(path, start, size)

        yield Entry(name, tensor.dtype, tensor.shape, tensor.size_bytes, chunks)


def _run(tasks: Sequence[CompressionTask], advance: Advance) -> None:
    total, done = sum(task.size_bytes for task in tasks), 0

    def on_done(task: CompressionTask) -> None:
        nonlocal done
        done += task.size_bytes
        advance(done, total)

    advance(0, total)
    run_tasks(tasks, on_done)


def _check_out(out: Path, **inputs: Sequence[Path]) -> None:
    for what, paths in inputs.items():
        if out.resolve() in {file.resolve() for path in paths for file in _expanded(path)}:
            raise BadInput(f"{out} is a file of the {what}; name another file for the artifact")


def _uploads(model: Sequence[Path], sensitivities: Sequence[Path]) -> tuple[Upload, Upload | None]:
    beside = _stored(sensitivities, digests=True) if sensitivities else None
    return _stored(model, digests=True), beside


def _open(paths: Sequence[Path]) -> Artifact:
    stored = _stored(paths, digests=False)
    shards = [file.path for file in stored.files if not file.name.endswith(".json")]
    if not shards:
        raise InvalidArtifact("an index alone is not an artifact; give its .safetensors files too")
    return open_artifact(stored.storage, shards, read_settings().limits)


def _stored(paths: Sequence[Path], *, digests: bool) -> Upload:
    """Files of one folder, as a store sees them; a folder stands for the model files in it."""
    files = [found for path in paths for found in _expanded(path)]
    folders = {file.resolve().parent for file in files}
    if len(folders) != 1:
        raise BadInput(f"the files of one model lie in one folder; these lie in {len(folders)}")
    stored = [
        StoredFile(
            name=file.name,
            path=file.name,
            size_bytes=file.stat().st_size,
            sha256=_sha256(file) if digests else None,
        )
        for file in files
    ]
    return Upload(open_storage(folders.pop().as_uri()), stored)


def _expanded(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted([*path.glob("*.safetensors"), *path.glob("*.safetensors.index.json")])
        if not found:
            raise BadInput(f"no .safetensors file lies in {path}")
        return found
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    return [path]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder beside `out`, on the same disk, gone when the work ends, however it ends."""
    parent = out.resolve().parent
    if not parent.is_dir():
        raise BadInput(f"there is no folder {parent} to write {out.name} in")
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    try:
        yield folder
    except OSError as error:
        raise PaletteryError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(artifact: Path, out: Path) -> None:
    files = list(artifact.iterdir())
    if len(files) == 1:
        if out.is_dir():
            raise BadInput(f"{out} is a folder; name the file to write")
        files[0].replace(out)
    elif out.exists():
        raise BadInput(f"the artifact has {len(files)} files and needs a folder, but {out} exists")
    else:
        artifact.rename(out)
