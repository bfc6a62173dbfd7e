"""Hostile uploads through every entry point: refused in a sentence, with nothing run or left."""

import json
import os
import pickle
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from palettery.app.storage.verified_reader import DIGESTS
from tests import hostile
from tests.hostile import ACCEPTED, REFUSED

pytestmark = pytest.mark.heavy

MEMORY_BYTES, CPU_S = 512 << 20, 10
"""Of the process that reads, beside what it holds once it has imported everything."""
ROOMY_BYTES = 4 << 30
"""For the search of palettes, which is no reading."""
ROOT = Path(__file__).parents[2]
SOME = list(REFUSED)[::8]
"""What refuses is the same in every service and for plans: a few of each format show it."""
ON_SERVERS = [("embedded", kind) for kind in REFUSED] + [("scaled", kind) for kind in SOME[::4]]
TOLD = re.compile(r"palettery: [^\n]{20,1000}\n")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def forks():
    command = [sys.executable, Path(__file__).with_name("limited.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def palettery(forks, tmp_path):
    """Run a command in a process with limits, in a folder of its own."""
    folder = tmp_path / "work"
    folder.mkdir()

    def run(*words, memory_bytes=MEMORY_BYTES):
        request = {"words": [*map(str, words)], "folder": str(folder), "cpu_s": CPU_S}
        forks.stdin.write(json.dumps({**request, "memory_bytes": memory_bytes}) + "\n")
        forks.stdin.flush()
        code = int(forks.stdout.readline())
        out, err = ((folder / name).read_text() for name in ("stdout", "stderr"))
        return Ended(code, out, err)

    return run


@pytest.fixture
def canary(tmp_path):
    """The file that hostile pickles make; at the end it must not be there."""
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def written(tmp_path, canary):
    """A function: files by name -> their paths, in a folder of their own."""
    folder = tmp_path / "upload"
    folder.mkdir()

    def write(build):
        files = build(canary)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return [folder / name for name in files]

    return write


def post(server, path, files, field="model", **more):
    with ExitStack() as stack:
        opened = [(field, (file.name, stack.enter_context(file.open("rb")))) for file in files]
        return server.http.post(path, files=[*opened, *more.items()], data={"preset": "w4"})


def tree(folder):
    """Every file in a folder but the databases, which are written as the server likes."""
    return {
        os.path.relpath(os.path.join(below, name), folder)  # noqa: PTH118 - pathlib is slow
        for below, _, names in os.walk(folder)
        for name in names
        if ".db" not in name
    }


def everything(server):
    """Every file that the service has, on this machine and in its store.

    But for digests of blocks, which are removed later, as another upload may have the same bytes.
    """
    files = {*tree(server.folder), *server.store.list(""), *server.unfinished()}
    return {path for path in files if f"{DIGESTS}/" not in path}


def check_problem(server, answer, code, message):
    """A problem of this code in a sentence, which tells nothing of the server's insides."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (answer.status_code, document["code"]) == (document["status"], code)
    assert 400 <= document["status"] < 500
    assert re.search(message, document["detail"])
    assert len(document["detail"]) < 1_000
    for inside in ("Traceback", 'File "', str(server.folder), str(ROOT), "uploads/", ".venv"):
        assert inside not in answer.text


@pytest.mark.parametrize(("server", "kind"), ON_SERVERS, indirect=["server"])
def test_server_refuses_and_keeps_nothing(server, written, kind):
    case = REFUSED[kind]
    files = written(case.files)
    before, jobs = everything(server), server.http.get("/v1/jobs").json()
    for path in ("/v1/plans", "/v1/jobs")[kind not in SOME :]:
        check_problem(server, post(server, path, files), case.code, case.said)
        assert server.leftovers() == []
        assert everything(server) == before
    assert server.http.get("/v1/jobs").json() == jobs
    assert server.http.get("/readyz").is_success


@pytest.mark.parametrize("kind", REFUSED)
def test_commands_refuse_within_their_limits(palettery, written, tmp_path, kind):
    case = REFUSED[kind]
    files = written(case.files)
    out = tmp_path / "out"
    out.mkdir()
    for words in (("plan", *files), ("compress", *files, "-o", out / "artifact"))[
        kind not in SOME :
    ]:
        ended = palettery(*words, "--preset", "w4")
        assert (ended.code, ended.out.strip()) == (2, ""), ended
        assert TOLD.fullmatch(ended.err), ended.err
        assert re.search(case.said, ended.err)
    assert list(out.iterdir()) == []
    assert sorted(files[0].parent.iterdir()) == sorted(files)


@pytest.mark.parametrize("kind", ["a pickle in data.pkl", "a legacy .pt", "2**40 elements in one"])
def test_sensitivities_are_refused_like_models(server, palettery, written, model, tmp_path, kind):
    case = REFUSED[kind]
    files = written(case.files)
    sound = tmp_path / "sound.safetensors"
    sound.write_bytes(model)
    answer = post(server, "/v1/jobs", files, "sensitivities", model=("m", model))
    check_problem(server, answer, case.code, case.said)
    assert server.leftovers() == []
    ended = palettery("plan", sound, "--preset", "w4", "--sensitivities", *files)
    assert ended.code == 2
    assert TOLD.fullmatch(ended.err), ended.err


@pytest.mark.parametrize(
    ("server", "kind"),
    [*(("embedded", kind) for kind in ACCEPTED), ("scaled", "names that are paths")],
    indirect=["server"],
)
def test_what_only_looks_bad_is_compressed(server, palettery, written, tmp_path, kind):
    files = written(ACCEPTED[kind])
    outside = tree(tmp_path) | {"artifact", "work/stdout", "work/stderr"}
    beside = set(server.folder.iterdir())
    assert post(server, "/v1/plans", files).is_success
    done = server.ended(post(server, "/v1/jobs", files).json()["id"])
    assert done["state"] == "succeeded", done
    assert palettery("plan", *files, "--preset", "w4").code == 0
    command = ("compress", *files, "--preset", "w4", "-o", tmp_path / "artifact")
    ended = palettery(*command, memory_bytes=ROOMY_BYTES)
    assert ended.code == 0, ended
    artifact = (tmp_path / "artifact").read_bytes()
    assert server.http.get(done["links"]["artifact"]).content == artifact
    assert tree(tmp_path) == outside
    assert set(server.folder.iterdir()) == beside
    assert server.leftovers() == []


def test_tensors_of_other_dtypes_are_kept_with_the_reason(server, written):
    files = written(hostile.not_floats)
    plan = post(server, "/v1/plans", files).json()
    assert len(plan["tensors"]) == len(hostile.OTHER_DTYPES)
    for document in plan["tensors"]:
        assert (document["action"], document["dtype"] in document["reason"]) == ("keep", True), (
            document
        )
    done = server.ended(post(server, "/v1/jobs", files).json()["id"])
    stored = load(server.http.get(done["links"]["artifact"]).content)
    for dtype in hostile.OTHER_DTYPES:
        assert stored[str(dtype)].dtype == dtype
        assert (stored[str(dtype)] == torch.ones(8, 8).to(dtype)).all()


FORMS = {
    "cut off": (b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nPK", "b", "ends before"),
    "empty": (b"", "b", "ends before"),
    "noise": (bytes(1000), "b", "not a valid multipart form"),
    "a boundary of 5,000 characters": (b"", "b" * 5_000, "of at most 70 characters"),
    "no name": (b"--b\r\nContent-Disposition: form-data\r\n\r\n\r\n--b--\r\n", "b", "has no name"),
}


@pytest.mark.parametrize("kind", FORMS)
def test_broken_forms_are_refused_and_leave_nothing(server, kind):
    body, boundary, message = FORMS[kind]
    for path in ("/v1/plans", "/v1/jobs"):
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = server.http.post(path, content=body, headers=headers)
        check_problem(server, answer, "invalid_upload", message)
        assert server.leftovers() == []


def test_a_preset_of_60_kilobytes_is_not_repeated(server, model):
    data = {"preset": "w" * 60_000}
    answer = server.http.post("/v1/plans", files={"model": ("m", model)}, data=data)
    check_problem(server, answer, "invalid_upload", r"'preset' is .*; send at most")


def test_the_pickle_makes_the_canary_when_it_is_loaded(tmp_path):
    for protocol in (0, 2, 4):
        bomb = hostile.pickled_bomb(tmp_path / f"canary{protocol}", protocol)
        pickle.loads(bomb)  # noqa: S301 - that it goes off is what is shown
        assert (tmp_path / f"canary{protocol}").exists()


def test_the_limit_of_memory_is_one(palettery, written):
    files = written(REFUSED["a header of 60 MB without an end"].files)
    ended = palettery("plan", *files, "--preset", "w4", memory_bytes=32 << 20)
    assert ended.code not in (0, 2)


def test_the_installed_program_refuses_too(written):
    case = REFUSED["a pickle beside tensors"]
    program = Path(sys.executable).with_name("palettery")
    command = [program, "plan", *written(case.files), "--preset", "w4"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.search(case.said, ended.stderr)
    assert TOLD.fullmatch(ended.stderr)
