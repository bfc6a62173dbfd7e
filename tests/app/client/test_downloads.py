import contextlib
import hashlib
import os
import re
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from palettery.app.errors import BadInput, PaletteryError, Unavailable
from palettery.schemas.report import Report
from tests.app.client.conftest import Answer

BODY = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(BODY).hexdigest()


def reported(**digests):
    """A report, which the client looks up before it downloads."""
    report = Report(
        tensors=(),
        size_before_bytes=0,
        size_after_bytes=0,
        palettized_size_before_bytes=0,
        palettized_size_after_bytes=0,
        bits_per_weight=0,
        artifact_sha256={f"{name}.safetensors": digest for name, digest in digests.items()},
        software={},
    )
    return Answer(body=report.model_dump_json().encode())


def serving(body=BODY, etag=DIGEST, sent_bytes=None):
    """A response with a file or the requested range, truncated after some bytes."""

    def answer(headers):
        range_match = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        if range_match is None or headers.get("If-Range") != f'"{etag}"':
            return Answer(200, body, sent_bytes=sent_bytes)
        first = int(range_match[1])
        if first >= len(body):
            return Answer(416, b"")
        return Answer(206, body[first:], sent_bytes=sent_bytes)

    return answer


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.safetensors"


@pytest.fixture
def partial(out):
    """Where an unfinished download of the body lies."""
    return out.with_name(f".{out.name}.{DIGEST[:16]}.part")


def ranges(scripted):
    return [headers.get("Range") for line, headers in scripted.requests if "artifact" in line]


def test_a_download_goes_on_where_the_connection_was_lost(scripted, client, out):
    scripted.answers = [reported(m=DIGEST), serving(sent_bytes=300_000)]
    progress = []
    assert client.download("j", out, advance=lambda *so_far: progress.append(so_far)) == (out,)
    assert out.read_bytes() == BODY
    assert ranges(scripted) == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert progress == sorted(progress)
    assert progress[-1] == (len(BODY), len(BODY))
    assert list(out.parent.iterdir()) == [out]


def test_a_download_goes_on_where_an_earlier_process_was_killed(scripted, client, out, partial):
    partial.write_bytes(BODY[:1000])
    scripted.answers = [reported(m=DIGEST), serving()]
    client.download("j", out)
    assert out.read_bytes() == BODY
    assert ranges(scripted) == ["bytes=1000-"]


def test_only_the_last_step_was_missing(scripted, client, out, partial):
    partial.write_bytes(BODY)
    scripted.answers = [reported(m=DIGEST), Answer(500)]
    client.download("j", out)
    assert list(out.parent.iterdir()) == [out]


def test_what_is_there_is_not_fetched_again(scripted, client, out):
    scripted.answers = [reported(m=DIGEST), serving(), reported(m=DIGEST), Answer(500)]
    client.download("j", out)
    client.download("j", out)
    assert out.read_bytes() == BODY


def test_no_progress_is_given_up_and_what_came_stays(scripted, client, out, partial):
    scripted.answers = [reported(m=DIGEST), serving(sent_bytes=300_000), Answer(lost=True)]
    with pytest.raises(Unavailable):
        client.download("j", out)
    assert partial.read_bytes() == BODY[:300_000]
    assert not out.exists()
    assert len(ranges(scripted)) == 1 + 4


def test_damage_is_never_published(scripted, client, out):
    scripted.answers = [reported(m=DIGEST), serving(BODY[:-1] + b"x")]
    with pytest.raises(PaletteryError, match="damaged"):
        client.download("j", out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("garbage", [b"other bytes", BODY + b"more"])
def test_a_damaged_partial_does_no_lasting_harm(scripted, client, out, partial, garbage):
    partial.write_bytes(garbage)
    scripted.answers = [reported(m=DIGEST), serving()]
    if len(garbage) < len(BODY):  # else the server says that nothing follows, so all is fetched
        with pytest.raises(PaletteryError, match="damaged"):
            client.download("j", out)
        scripted.answers = [reported(m=DIGEST), serving()]
    client.download("j", out)
    assert out.read_bytes() == BODY


def test_a_server_that_serves_no_ranges(scripted, client, out, partial):
    partial.write_bytes(BODY[:1000])
    scripted.answers = [reported(m=DIGEST), serving(etag="another")]
    client.download("j", out)
    assert out.read_bytes() == BODY


def test_shards_go_into_a_folder(scripted, client, tmp_path):
    other = b"other"
    scripted.answers = [
        reported(a=DIGEST, b=hashlib.sha256(other).hexdigest()),
        serving(),
        serving(other),
    ]
    files = client.download("j", tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["a.safetensors", "b.safetensors"]
    assert [file.read_bytes() for file in files] == [BODY, other]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted(files)


def test_a_place_that_cannot_be_written(scripted, client, tmp_path):
    scripted.answers = [reported(m=DIGEST), serving()]
    with pytest.raises(BadInput, match="name a file"):
        client.download("j", tmp_path)
    scripted.answers = [reported(m=DIGEST), serving()]
    with pytest.raises(BadInput, match=r"there is no folder .* to write"):
        client.download("j", tmp_path / "no" / "such" / "file")


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [(Path.mkdir, "is a folder"), (unix_socket, "is a socket"), (None, "there is no folder")],
)
def test_what_cannot_be_an_output_is_refused_at_once(scripted, client, tmp_path, make, message):
    out = tmp_path / "no" / "out" if make is None else tmp_path / "out"
    if make is not None:
        make(out)
    before = set(tmp_path.iterdir())
    with pytest.raises(BadInput, match=message):
        client.download_export("j", "dense", out)
    assert scripted.requests == []
    assert set(tmp_path.iterdir()) == before


def test_a_pipe_gets_what_was_checked(scripted, client, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    scripted.answers = [reported(m=DIGEST), serving(sent_bytes=300_000)]
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(pipe.read_bytes)
        assert client.download("j", pipe) == (pipe,)
        assert reading.result() == BODY
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert set(tmp_path.iterdir()) == {pipe}


def test_a_link_to_a_device_is_written_to_and_stays(scripted, client, tmp_path):
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    scripted.answers = [reported(m=DIGEST), serving()]
    client.download("j", link)
    assert stat.S_ISCHR(link.stat().st_mode)
    assert set(tmp_path.iterdir()) == {link}


def test_a_link_stays_and_the_file_behind_it_is_replaced(scripted, client, tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to("disk/file")
    scripted.answers = [reported(m=DIGEST), serving()]
    client.download("j", link)
    assert link.is_symlink()
    assert (tmp_path / "disk" / "file").read_bytes() == BODY


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_the_longest_names_can_be_written(scripted, client, tmp_path, name):
    scripted.answers = [reported(m=DIGEST), serving()]
    client.download("j", tmp_path / name)
    assert (tmp_path / name).read_bytes() == BODY


def test_several_files_and_one_pipe(scripted, client, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    scripted.answers = [reported(a=DIGEST, b=DIGEST)]
    with pytest.raises(BadInput, match=r"2 files, and .* is not a folder"):
        client.download("j", tmp_path / "pipe")


def test_a_name_that_leads_out_of_the_folder(scripted, client, tmp_path):
    scripted.answers = [reported(**{"a": DIGEST, "../b": DIGEST}), serving()]
    with pytest.raises(PaletteryError, match="names"):
        client.download("j", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
