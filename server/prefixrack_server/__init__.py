"""The server: many adapters on one frozen backbone over HTTP. Its README tells the life of a request."""
