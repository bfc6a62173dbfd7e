"""HTTP/1.1 as uvicorn and httptools speak it, with the limit on request heads that they lack."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 << 10
"""Of a request line with its headers, or of the trailers behind a body; h11's limit too."""


class Protocol(HttpToolsProtocol):
    """One connection.

    What the parser keeps until a head is complete is counted as it comes in: no callback tells of
    a header that does not end.
    """

    _held_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Parse what came in; the callbacks below set the count back."""
        self._held_bytes += len(data)
        super().data_received(data)
        if self._held_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"Over {HEAD_BYTES:,} bytes of headers.")

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._held_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of a body, which goes on to the application."""
        self._held_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete, its trailers too."""
        self._held_bytes = 0
        super().on_message_complete()
