"""The command line on machines whose terminals, locales and shells are not ours."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from palettery.app.client.requests import text_of
from palettery.app.errors import BadInput
from palettery.app.settings import Settings
from palettery.app.storage.input_files import check_readable
from tests.spanning import first_fast

COMMAND = [sys.executable, "-c", "from palettery.app.cli.main import main; main()"]
NAMES = ("モデル.weight", "слой.weight", "caf\u00e9.weight", "\U0001f600.weight")


@pytest.fixture
def named(tmp_path):
    """A model with names in many scripts."""
    values = np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16)
    save_file({name: values + at for at, name in enumerate(NAMES)}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("encoding", first_fast(["ascii", "utf-8", "latin-1", "cp1252"], 2))
def test_any_name_can_be_shown_whatever_the_terminal_encodes(named, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [*COMMAND, "plan", named, "--preset", "w4"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert name.encode(encoding, errors="backslashreplace") in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("words", first_fast([("plan",), ("plan", "--json")], 1))
def test_output_that_finds_no_room_is_one_line(named, words):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [*COMMAND, *words, named, "--preset", "w4"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "palettery: cannot write the output: No space left on device; free some space\n"
    )


@pytest.mark.parametrize(
    "content",
    ["n_bits: 4".encode("utf-16"), "n_bits: 4 # caf\u00e9".encode("latin-1"), b"\x80"],
)
def test_a_config_that_is_not_utf8_says_what_to_do(palettery, named, tmp_path, content):
    config = tmp_path / "config.yaml"
    config.write_bytes(content)
    message = f"the config {config} is not UTF-8 text: byte 0x"
    code, _, err = palettery("plan", named, "--config", config)
    assert code == 2
    assert message in err
    assert "save it as UTF-8" in err
    with pytest.raises(BadInput, match="save it as UTF-8"):
        text_of(config)


@pytest.mark.parametrize("url", ["https://host/m.safetensors", "s3://bucket/m", "hf://org/model"])
def test_a_url_in_place_of_a_file_is_named_as_one(palettery, url):
    code, _, err = palettery("plan", url, "--preset", "w4")
    assert code == 2
    assert "is a URL, and only local files are read; download it first" in err


def test_a_file_whose_name_has_a_colon_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c:").mkdir()
    (tmp_path / "c:" / "m").write_bytes(b"")
    check_readable(tmp_path / "c:" / "m")


@pytest.mark.parametrize("host", ["[::1]", "::1", "127.0.0.1", "localhost", "[::]", "0.0.0.0"])  # noqa: S104
def test_a_host_may_be_written_as_urls_have_it(host):
    settings = Settings(host=host)
    assert settings.host == host.strip("[]")
    assert settings.is_loopback() == (settings.host in ("::1", "127.0.0.1", "localhost"))
