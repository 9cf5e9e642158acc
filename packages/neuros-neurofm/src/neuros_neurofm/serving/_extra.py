"""What the extra `serve` brings."""

try:
    import msgpack
    import uvicorn
    from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
    from uvicorn.supervisors import Multiprocess
except ImportError as error:
    raise ImportError(
        "neuros_neurofm.serving needs its extra: pip install 'neuros-neurofm[serve]'"
    ) from error

__all__ = [
    "FastAPI",
    "Multiprocess",
    "Request",
    "Response",
    "WebSocket",
    "WebSocketDisconnect",
    "msgpack",
    "uvicorn",
]
