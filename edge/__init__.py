"""The client's side: WebSocket and HTTP in, the mesh behind."""
