"""Upper bounds of what is parsed, by the first bytes of a file."""

from palettery.app.checkpoints.file_formats import max_parsed_bytes


def test_of_safetensors_the_header_is_parsed():
    head = (70_000).to_bytes(8, "little") + b'{"a":'
    assert max_parsed_bytes(head, 1 << 30) == 70_000
    assert max_parsed_bytes(head, 512) == 512  # it claims more than there is


def test_other_files_may_be_parsed_whole():
    assert max_parsed_bytes(b"PK\x03\x04" + bytes(60), 1 << 30) == 1 << 30
    assert max_parsed_bytes(b"{}", 2) == 2
    assert max_parsed_bytes(b"", 0) == 0
