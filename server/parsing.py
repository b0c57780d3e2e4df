"""What is no HTTP gets OpenAI's error envelope too: uvicorn's own answer is a bare sentence."""

from __future__ import annotations

import json
import secrets

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.ids import new_request_id

MESSAGE = (
    "The request is not valid HTTP, or its request line and headers are longer than the server takes. "
    "If it speaks TLS, use http:// in place of https://."
)


class EnvelopeHttpProtocol(HttpToolsProtocol):
    """uvicorn's parser with our words for what it cannot read."""

    def send_400_response(self, msg: str) -> None:
        error = {"message": MESSAGE, "type": "invalid_request_error", "param": None, "code": "invalid_http"}
        body = json.dumps({"error": error}).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            f"x-request-id: {new_request_id(secrets.token_bytes)}\r\n"
            "openai-processing-ms: 0\r\n"
            "connection: close\r\n"
            "\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
