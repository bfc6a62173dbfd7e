"""What is told from the first bytes of a file."""

from palettery.app.checkpoints.kinds import parsed_bytes


def test_of_safetensors_the_header_is_parsed():
    head = (70_000).to_bytes(8, "little") + b'{"a":'
    assert parsed_bytes(head, 1 << 30) == 70_000
    assert parsed_bytes(head, 512) == 512  # it claims more than there is


def test_other_files_may_be_parsed_whole():
    assert parsed_bytes(b"PK\x03\x04" + bytes(60), 1 << 30) == 1 << 30
    assert parsed_bytes(b"{}", 2) == 2
    assert parsed_bytes(b"", 0) == 0
