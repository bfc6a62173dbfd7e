"""The dashboard that docs/dashboard.md shows runs as written, against a real server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "dashboard.md"


def program() -> str:
    (result,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.M)
    return result


@contextmanager
def running(script: Path, url: str, out: Path) -> Iterator[None]:
    with out.open("wb") as writing:
        process = subprocess.Popen(
            [sys.executable, script],
            env=os.environ | {"PALETTERY_SERVER": url},
            stdout=writing,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
            assert process.poll() is None, out.read_text()
        finally:
            process.kill()
            process.wait()


def test_another_dashboard_sees_jobs_come_and_go(embedded, model, tmp_path):
    (script, out) = tmp_path / "dashboard.py", tmp_path / "out"
    script.write_text(program())
    with running(script, str(embedded.http.base_url), out):
        job_id = embedded.submit(model, "watched.safetensors")

        def seen(words: str) -> bool:
            return re.search(rf"watched\.safetensors +{words}", out.read_text()) is not None

        embedded.wait_until(lambda: seen(r"succeeded +#{20} .* -> .* MB"), "its end is seen")
        embedded.http.delete(f"/v1/jobs/{job_id}").raise_for_status()
        last = "\033[H\033[J"
        embedded.wait_until(
            lambda: "watched.safetensors" not in out.read_text().rsplit(last, 1)[1],
            "that it is gone is seen",
        )


def test_it_is_as_short_as_the_page_says():
    lines = [line for line in program().splitlines() if line]
    assert len(lines) <= 40
